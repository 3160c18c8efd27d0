"""`esper tell RUN WHAT`: a person's command to a run that trains now, and what became of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contracts.topics import LOCAL
from esper.cli import RUN_FAILED
from esper.cli.events import event_json, headline, styled_name
from esper.cli.history import find_run, history_of
from esper.cli.output import complain, say, say_hanging, say_json
from esper.errors import InvalidInput, LogUnavailable
from esper.leyline.envelope import Event, body_name, body_of
from esper.leyline.ids import text
from esper.tolaria.told import read_signal, read_told, told_event
from esper.weatherlight import client
from esper.weatherlight.alive import lives
from projections.history import History
from projections.run_queries import EventReader, claims_of, partition_of_run
from streams.keys import load_key_ring
from streams.local_log import tell
from streams.producer import publish_once
from streams.settings import Settings

ANSWER_S: Final = 60.0
"""Longer than a command is fresh: what no step has taken by then is refused as stale when one does."""
POLL_S: Final = 0.1
EFFECTS: Final = (
    "seed_transitioned",
    "gate_evaluated",
    "kernel_attached",
    "learning_rate_changed",
    "optimizer_changed",
    "rolled_back",
    "seed_absorbed",
)
"""What comes of a command at once, in the order of the log."""


@dataclass(frozen=True, slots=True)
class Told:
    """A command, the fact that answers it, and what followed from it at the same step; no fact where none came."""

    run_id: str
    command: Event
    answer: Event | None
    effects: tuple[Event, ...] = ()

    @property
    def outcome(self) -> str:
        """What became of it: applied, rejected or unanswered."""
        if self.answer is None:
            return "unanswered"
        return "applied" if self.answer.HasField("command_applied") else "rejected"

    def to_json(self) -> dict[str, Any]:
        """The one object of `--json`."""
        answer, rejected = self.answer, self.answer is not None and self.outcome == "rejected"
        return {
            "run_id": self.run_id,
            "told": self.command.adaptation_command.annotations["told"],
            "command_id": text(self.command.event_id),
            "outcome": self.outcome,
            "step": None if answer is None else answer.global_step,
            "epoch": None if answer is None else answer.epoch,
            "reason": answer.command_rejected.reason if answer is not None and rejected else None,
            "detail": answer.command_rejected.detail if answer is not None and rejected else None,
            "effects": [event_json(each) for each in self.effects],
        }


def tell_command(data_dir: Path, word: str, words: str, *, as_json: bool) -> int:
    """Tell a run something, wait for what it makes of it, and print that; 1 where it is refused or nothing answers."""
    if (signal := read_signal(words)) is not None:
        from esper.cli.alarm import alarm_command  # noqa: PLC0415 - it needs this module

        return alarm_command(data_dir, word, signal, as_json=as_json)
    told = tell_run(data_dir, word, words)
    if as_json:
        say_json(told.to_json())
    else:
        _show(told)
    return 0 if told.outcome == "applied" else RUN_FAILED


def tell_run(data_dir: Path, word: str, words: str) -> Told:
    """Tell a run something and wait for what it makes of it.

    Raises InvalidInput for what nobody can be told, and for a run that nobody trains.
    """
    command = read_told(words)
    settings = Settings.load(data=data_dir)
    with history_of(data_dir) as history:
        run_id = find_run(history, word)
        reader = EventReader(history, run_id, ("command_applied", "command_rejected", "run_finished", *EFFECTS))
        check_trained(history, run_id)
        send = _way_to(history, run_id, data_dir, settings)
        for _ in reader.new():
            pass  # what was there before answers nothing
        event = told_event(run_id, command, now_ns=time.time_ns(), random_bytes=os.urandom(10))
        send(event)
        return _await(reader, run_id, event, lambda: _lives(history, run_id))


def _show(told: Told) -> None:
    words = told.command.adaptation_command.annotations["told"]
    answer = told.answer
    if answer is None:
        complain(
            f"{words}: run {told.run_id} has not answered within {ANSWER_S:.0f} s; it will refuse it as stale. Is "
            f"it in a long step? `esper events {told.run_id} --type command_rejected` shows it"
        )
        return
    place = f"before step {answer.global_step + 1} (epoch {answer.epoch + 1})"
    if told.outcome == "rejected":
        complain(f"{words}: refused by run {told.run_id} {place}: {headline(answer)}")
        return
    say(f"{words}: applied by run {told.run_id} {place}")
    for effect in told.effects:
        say_hanging(f"  {styled_name(body_name(effect))}  ", headline(effect))


def check_trained(history: History, run_id: str) -> None:
    """Raise InvalidInput for a run that is over or whose trainer is gone."""
    if EventReader(history, run_id).finished():
        ends = [each.run_finished.status for each in EventReader(history, run_id, ("run_finished",)).new()]
        if ends[-1] == "interrupted":
            raise InvalidInput(
                f"run {run_id} was interrupted; `esper resume {run_id}` goes on with it, and then tell it"
            )
        raise InvalidInput(f"run {run_id} is over; `esper fork {run_id} --at STEP --do ...` does it otherwise")
    if _lives(history, run_id) is False:
        raise InvalidInput(
            f"the trainer of run {run_id} died; `esper resume {run_id}` goes on with it, and then tell it"
        )


def _lives(history: History, run_id: str) -> bool | None:
    claim = claims_of(history, [run_id]).get(run_id)
    return None if claim is None else lives(body_of(claim).machine.process)


def _way_to(history: History, run_id: str, data_dir: Path, settings: Settings) -> Callable[[Event], None]:
    """How a command comes to the run: over its log, or into the archive of one that has none.

    Raises InvalidInput where the processes that the run needs are not there.
    """
    partition = partition_of_run(history, run_id)
    if partition == LOCAL:
        ring = load_key_ring(settings, "127.0.0.1:0")
        return lambda event: tell(data_dir / "archive", ring, event, time.time_ns() // 1_000_000)
    status = client.status(data_dir)
    if status is None and settings.brokers is None:
        raise InvalidInput(f"nobody trains run {run_id}: no processes of {data_dir} run; `esper resume {run_id}`")
    brokers = settings.brokers or (status.brokers if status is not None else "")
    ring = load_key_ring(settings)
    # To where the run's trainer reads: on its partition, whatever the log has of them by now.
    return lambda event: asyncio.run(publish_once(brokers, ring, [event], partition))


def _await(reader: EventReader, run_id: str, command: Event, alive: Callable[[], bool | None]) -> Told:
    """The command's answer in the archive, with its effects; raises LogUnavailable where the run ends without one."""
    deadline = time.monotonic() + ANSWER_S
    seen: list[Event] = []
    while time.monotonic() < deadline:
        seen += reader.new()
        answer = next((each for each in seen if _answers(each, command)), None)
        if answer is not None:
            seen += _after(reader)
            return Told(run_id, command, answer, _effects(seen, answer))
        if any(each.HasField("run_finished") for each in seen):
            raise LogUnavailable(f"run {run_id} ended before it was told")
        if alive() is False:
            raise LogUnavailable(f"the trainer of run {run_id} died before it was told; `esper resume {run_id}`")
        time.sleep(POLL_S)
    return Told(run_id, command, None)


def _after(reader: EventReader) -> list[Event]:
    """What is archived just behind an answer: its effects follow it on the log at once."""
    time.sleep(3 * POLL_S)
    with suppress(InvalidInput):
        return list(reader.new())
    return []


def _answers(event: Event, command: Event) -> bool:
    body: Any = body_of(event)
    return body_name(event) in {"command_applied", "command_rejected"} and body.command_id == command.event_id


def _effects(seen: list[Event], answer: Event) -> tuple[Event, ...]:
    at_step = [each for each in seen if each.global_step == answer.global_step and body_name(each) in EFFECTS]
    rolled = [each for each in seen if each.HasField("rolled_back") and each.rolled_back.reason == "command"]
    caused = [each for each in at_step if each.causation_id == answer.event_id]
    return (*caused, *(each for each in rolled if each.rolled_back.from_step == answer.global_step))
