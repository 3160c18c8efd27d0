"""Emergencies as the supervisor sees them: over the log, and through the flags of the trainers of this machine.

What is grave (level 3 and higher) is written into its log, counted, and part of its status, within 100 ms with the log
or without (R-OPS-11). Of a rollback that has missed its deadline it tells itself: a trainer that hangs cannot
(R-OPS-12).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiokafka.errors import KafkaError

from contracts.leyline.v1.leyline_pb2 import (
    EMERGENCY_LEVEL_CONSERVATIVE,
    EMERGENCY_LEVEL_ELEVATED,
    MESSAGE_PRIORITY_CRITICAL,
    EmergencySignal,
)
from contracts.topics import EMERGENCY
from esper.errors import LogUnavailable
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event, tag_of
from esper.leyline.signing import KeyRing
from esper.weatherlight.flag import FROM_TRAINER, PREFIX, Deadline, Flag, Raised
from streams.consumer import LogConsumer
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.reader import record_of
from streams.records import Refused, verified

LOOK_S: Final = 0.05
"""How often the flags are looked at: half of the time in which an emergency must be known."""
IDLE_LOOK_S: Final = 0.25
"""The same while there is none: a run's flag is there long before the run can raise it."""
AGAIN_S: Final = 0.5
"""A missed deadline is told at most so often."""
RETRY_S: Final = 1.0
SAME_S: Final = 60.0
"""What comes both ways within so long is one."""
SHOWN: Final = 40
"""A flag has room for the beginning of a reason."""
REMEMBERED: Final = 256
TICK_NS: Final = 1_000_000_000
"""A folder that has changed within so long may change again without a later time: file systems count in ticks."""
PRODUCER: Final = "weatherlight"
_SIGNAL: Final = tag_of("emergency_signal")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at the flags found new of a run: a signal that its trainer raised, or a deadline that it missed."""

    run_id: str
    raised: Raised | None = None
    missed: Deadline | None = None


class Watch:
    """Looks at all flags of a data folder. What lay there before the first look is no news."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder
        self._changed = -1
        self._flags: dict[str, Flag] = {}
        self._signals: dict[str, int] = {}
        self._missed: dict[str, int] = {}
        self._told_at: dict[str, float] = {}
        for run_id, flag in self._mapped():
            raised = flag.raised(FROM_TRAINER)
            self._signals[run_id] = 0 if raised is None else raised.sequence

    @property
    def sees_any(self) -> bool:
        """Whether there was a flag at the last look."""
        return bool(self._flags)

    def look(self, now_ns: int) -> Iterator[Seen]:
        """What is new; `now_ns` is the monotonic clock, which is one for all processes of a machine."""
        for run_id, flag in self._mapped():
            raised, deadline = flag.raised(FROM_TRAINER), flag.deadline()
            if raised is not None and raised.sequence != self._signals.get(run_id, 0):
                self._signals[run_id] = raised.sequence
                yield Seen(run_id, raised=raised)
            if 0 < deadline.by_ns < now_ns and deadline.sequence != self._missed.get(run_id):
                last = self._told_at.get(run_id)
                if last is None or now_ns - last >= 1e9 * AGAIN_S:
                    self._missed[run_id], self._told_at[run_id] = deadline.sequence, now_ns
                    yield Seen(run_id, missed=deadline)

    def _mapped(self) -> list[tuple[str, Flag]]:
        """The flags by their runs; the folder is listed again only where something came or went."""
        try:
            changed = self._folder.stat().st_mtime_ns
            if changed != self._changed or time.time_ns() - changed < TICK_NS:
                self._changed = changed
                self._map({path.name.removeprefix(PREFIX): path for path in self._folder.glob(f"{PREFIX}*")})
        except OSError:
            return []
        return list(self._flags.items())

    def _map(self, there: dict[str, Path]) -> None:
        """Map what has come, and forget what went: a run that goes on makes a new file, under the same name."""
        for run_id in [
            each for each, flag in self._flags.items() if each not in there or not flag.lies_at(there[each])
        ]:
            self._flags.pop(run_id).close()
            for remembered in (self._signals, self._missed, self._told_at):
                remembered.pop(run_id, None)
        for run_id in there.keys() - self._flags.keys():
            if (flag := Flag.open(there[run_id])) is not None:
                self._flags[run_id] = flag


class Emergencies:
    """What a supervisor knows of emergencies; `last` is one line on the latest grave one, empty where there was none.

    One that comes both ways is counted once.
    """

    def __init__(self, run_folder: Path, metrics: Metrics) -> None:
        self.last = ""
        self._watch = Watch(run_folder)
        self._metrics = metrics
        self._known: deque[tuple[tuple[str, int, str], float, str]] = deque(maxlen=REMEMBERED)
        self._missed: asyncio.Queue[Event] = asyncio.Queue()

    async def watch_flags(self) -> None:
        """Look at the flags until cancelled."""
        while True:
            self.look(time.monotonic_ns(), time.time_ns())
            await asyncio.sleep(LOOK_S if self._watch.sees_any else IDLE_LOOK_S)

    def look(self, now_ns: int, wall_ns: int) -> None:
        """Look at the flags once."""
        for seen in self._watch.look(now_ns):
            if seen.raised is not None:
                self._note(seen.run_id, seen.raised.level, seen.raised.reason, seen.raised.monotonic_ms, "flag")
            if seen.missed is not None:
                late_ms = (now_ns - seen.missed.by_ns) // 1_000_000
                logger.warning("run %s: a rollback has missed its deadline by %d ms and goes on", seen.run_id, late_ms)
                self._metrics.count("esper_weatherlight_deadlines_missed_total")
                self._missed.put_nowait(_missed(seen.run_id, late_ms, now_ns, wall_ns))

    async def watch_log(self, brokers: str, ring: KeyRing) -> None:
        """Read the emergencies of all runs from now on, and tell of missed deadlines, until cancelled."""
        publisher = Publisher(brokers, ring, self._metrics)
        telling = asyncio.create_task(self._tell(publisher))
        try:
            while True:
                with suppress(KafkaError, OSError):
                    await self._read(brokers, ring)
                await asyncio.sleep(RETRY_S)
        finally:
            telling.cancel()
            await publisher.stop()

    def missed_now(self) -> list[Event]:
        """The signals on missed deadlines that nobody has taken yet."""
        return [self._missed.get_nowait() for _ in range(self._missed.qsize())]

    async def _tell(self, publisher: Publisher) -> None:
        while True:
            event = await self._missed.get()
            with suppress(LogUnavailable):  # the log is away: the flag has said so, and this process's log
                await publisher.publish([event])

    async def _read(self, brokers: str, ring: KeyRing) -> None:
        since_ns = time.time_ns()
        consumer = LogConsumer(bootstrap_servers=brokers, urgent=True, auto_offset_reset="latest")
        try:
            await consumer.start()
            places = await consumer.places(EMERGENCY)
            ends = await consumer.end_offsets(places)
            consumer.assign(places)
            for place, offset in ends.items():
                consumer.seek(place, offset)
            while True:
                message = await consumer.getone()
                if _SIGNAL not in message.value:
                    continue
                event = verified(record_of(message), ring, since_ns=since_ns)
                if not isinstance(event, Refused):
                    signal = event.emergency_signal
                    self._note(event.run_id, signal.level, signal.reason, signal.monotonic_time_ms, "log")
        finally:
            await consumer.stop()

    def _note(self, run_id: str, level: int, reason: str, monotonic_ms: int, way: str) -> None:
        if level < EMERGENCY_LEVEL_CONSERVATIVE:
            return
        now, known = time.monotonic(), (run_id, level, reason[:SHOWN])
        if any(each == known and way != theirs and now - then < SAME_S for each, then, theirs in self._known):
            return
        self._known.append((known, now, way))
        self.last = f"level {level} in run {run_id or 'all'}: {reason}"
        logger.warning("emergency of %s (by the %s)", self.last, way)
        self._metrics.count("esper_weatherlight_emergency_detections_total", way=way)
        self._metrics.set("esper_weatherlight_emergency_last_level", level)
        if monotonic_ms:
            self._metrics.observe("esper_weatherlight_emergency_latency_seconds", max(0.0, now - monotonic_ms / 1e3))


def _missed(run_id: str, late_ms: int, now_ns: int, wall_ns: int) -> Event:
    signal = EmergencySignal(
        version=1,
        level=EMERGENCY_LEVEL_ELEVATED,
        reason=f"a rollback has missed its deadline by {late_ms} ms and goes on",
        origin=PRODUCER,
        monotonic_time_ms=now_ns // 1_000_000,
        run_id=run_id,
    )
    signal.triggered_at.FromNanoseconds(wall_ns)
    return new_event(
        signal,
        event_id=ids.uuid7(wall_ns, os.urandom(10)),
        run_id=run_id,
        producer=PRODUCER,
        recorded_at_ns=wall_ns,
        priority=MESSAGE_PRIORITY_CRITICAL,
    )
