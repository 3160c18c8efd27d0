"""`esper tell RUN halt` and `esper tell RUN caution`: an emergency signalled to a run, and whether it was heeded."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from contracts.leyline.v1.leyline_pb2 import (
    CIRCUIT_BREAKER_STATE_OPEN,
    EMERGENCY_LEVEL_HALT,
    EmergencySignal,
)
from contracts.topics import LOCAL
from esper.cli import RUN_FAILED
from esper.cli.events import event_json, headline
from esper.cli.history import find_run, history_of
from esper.cli.output import complain, say, say_json
from esper.cli.tell import check_trained
from esper.errors import InvalidInput, LogUnavailable
from esper.leyline.envelope import Event
from esper.leyline.ids import text
from esper.tolaria.told import signal_event
from esper.weatherlight import client
from esper.weatherlight.alarms import raise_flag
from esper.weatherlight.flag import flag_of
from projections.run_queries import EventReader, partition_of_run
from streams.keys import load_key_ring
from streams.producer import publish_once
from streams.settings import Settings

HEEDED_S: Final = 60.0
"""A step may be long; the signal itself is there within a tenth of a second."""
POLL_S: Final = 0.1


def alarm_command(data_dir: Path, word: str, signal: EmergencySignal, *, as_json: bool) -> int:
    """Signal an emergency to a run, wait until it heeds it, and print that; 1 where it does not within a minute."""
    run_id, event, ways, heeded = alarm_run(data_dir, word, signal)
    if as_json:
        say_json(_told(run_id, event, ways, heeded))
    elif heeded is None:
        complain(
            f"run {run_id} has not heeded it within {HEEDED_S:.0f} s (sent by {' and '.join(ways)}); is it in a long "
            f"step, or was it in caution already? `esper events {run_id}` shows it"
        )
    else:
        say(f"heeded by run {run_id} before step {heeded.global_step + 1}: {headline(heeded)}")
    return 0 if heeded is not None else RUN_FAILED


def alarm_run(data_dir: Path, word: str, signal: EmergencySignal) -> tuple[str, Event, list[str], Event | None]:
    """Signal it over the log and by the run's flag, whichever is there; the fact that answers it, None without one.

    Raises InvalidInput for a run that nobody trains, and where neither way leads to it.
    """
    settings = Settings.load(data=data_dir)
    with history_of(data_dir) as history:
        run_id = find_run(history, word)
        reader = EventReader(history, run_id, ("breaker_changed", "run_finished"))
        check_trained(history, run_id)
        for _ in reader.new():
            pass  # what was there before answers nothing
        event = signal_event(run_id, signal, now_ns=time.time_ns(), random_bytes=os.urandom(10))
        ways = ["the flag"] if raise_flag(flag_of(settings.run_folder, run_id), signal.level, signal.reason) else []
        partition = partition_of_run(history, run_id)
        if partition != LOCAL and _on_the_log(data_dir, settings, event, partition):
            ways.append("the log")
        if not ways:
            raise InvalidInput(
                f"run {run_id} cannot be reached: it has no flag in {settings.run_folder} and no log answers; "
                "end its process where it runs"
            )
        deadline = time.monotonic() + HEEDED_S
        while time.monotonic() < deadline:
            for each in reader.new():
                if _heeds(each, signal):
                    return run_id, event, ways, each
            time.sleep(POLL_S)
    return run_id, event, ways, None


def _on_the_log(data_dir: Path, settings: Settings, event: Event, partition: int | None) -> bool:
    status = client.status(data_dir)
    brokers = settings.brokers or (status.brokers if status is not None else "")
    if not brokers:
        return False
    with suppress(LogUnavailable):
        asyncio.run(publish_once(brokers, load_key_ring(settings), [event], partition))
        return True
    return False


def _heeds(event: Event, signal: EmergencySignal) -> bool:
    if signal.level >= EMERGENCY_LEVEL_HALT:
        return event.HasField("run_finished")
    change = event.breaker_changed
    return change.breaker == "emergency" and change.to_state == CIRCUIT_BREAKER_STATE_OPEN


def _told(run_id: str, event: Event, ways: list[str], heeded: Event | None) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "signal_id": text(event.event_id),
        "level": event.emergency_signal.level,
        "reason": event.emergency_signal.reason,
        "ways": ways,
        "outcome": "unanswered" if heeded is None else "heeded",
        "step": None if heeded is None else heeded.global_step,
        "effect": None if heeded is None else event_json(heeded),
    }
