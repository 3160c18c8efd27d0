"""Emergencies as a trainer tells and hears of them: over its log, and through the flag of its run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from contracts.leyline.v1.leyline_pb2 import EMERGENCY_LEVEL_CONSERVATIVE, EmergencySignal
from esper.tolaria.outside import Heard
from esper.weatherlight.flag import FROM_TRAINER, TO_TRAINER, Flag


class RunAlarms:
    """`esper.tolaria.outside.Alarms` of one run: its flag at `path`, and what `arrived` over its log since it asked."""

    def __init__(self, path: Path, arrived: Callable[[], Sequence[Heard]] = tuple) -> None:
        self._path = path
        self._flag = Flag.make(path)
        self._arrived = arrived
        self._seen = 0

    def told(self, signal: EmergencySignal) -> None:
        """Raise the flag, if it is grave enough."""
        if signal.level >= EMERGENCY_LEVEL_CONSERVATIVE:
            self._flag.signal(FROM_TRAINER, signal.level, time.monotonic_ns() // 1_000_000, signal.reason)

    def heard(self) -> list[Heard]:
        """The signals to this run since the last call, over the log or through the flag."""
        found = list(self._arrived())
        raised = self._flag.raised(TO_TRAINER)
        if raised is not None and raised.sequence != self._seen:
            self._seen = raised.sequence
            found.append(Heard(raised.level, raised.reason))
        return found

    def begins(self, within_s: float) -> None:
        """A rollback begins, which must end within so many seconds."""
        self._flag.begin(time.monotonic_ns() + round(1e9 * within_s))

    def ends(self) -> None:
        """It has ended."""
        self._flag.end()

    def close(self) -> None:
        """Take the flag away."""
        self._flag.close()
        if self._flag.shared:
            self._path.unlink(missing_ok=True)


def raise_flag(path: Path, level: int, reason: str) -> bool:
    """Signal an emergency to the trainer whose flag is at `path`; whether there is one."""
    flag = Flag.open(path)
    if flag is None:
        return False
    flag.signal(TO_TRAINER, level, time.monotonic_ns() // 1_000_000, reason)
    flag.close()
    return True
