"""The outside of a run that begins with its first batch: until its log is opened, nothing is told and nothing heard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contracts.leyline.v1.leyline_pb2 import EmergencySignal
from esper.leyline.signing import Signed
from esper.tolaria.outside import Alarms, Answer, Heard, KernelSource, Log
from esper.urza.artifact import Kernel, Refusal
from esper.urza.library import Wanted


class LateLog:
    """A log that is there once it is `opened`: at a run's first fact. Until then nothing has arrived on it."""

    def __init__(self) -> None:
        self.real: Log | None = None

    def _log(self) -> Log:
        assert self.real is not None  # a session opens it before it publishes
        return self.real

    def publish(self, event: Any) -> None:
        """On the log that was opened."""
        self._log().publish(event)

    def flush(self, timeout_s: float = 30.0) -> None:
        """On the log that was opened."""
        self._log().flush(timeout_s)

    def claim(self, event: Any) -> None:
        """On the log that was opened."""
        self._log().claim(event)

    def await_answer(self, packet_id: bytes, timeout_s: float) -> Answer | None:
        """On the log that was opened."""
        return self._log().await_answer(packet_id, timeout_s)

    def take_commands(self) -> list[Signed]:
        """None before it is opened."""
        return [] if self.real is None else self.real.take_commands()

    def await_command(self, timeout_s: float) -> None:
        """On the log that was opened."""
        self._log().await_command(timeout_s)

    def shed(self) -> int:
        """None before it is opened."""
        return 0 if self.real is None else self.real.shed()


class LateLibrary:
    """The library of a log that is there later; until then it has nothing."""

    def __init__(self) -> None:
        self.real: KernelSource | None = None

    def want(self, wanted: Sequence[Wanted]) -> None:
        """Ask for these kernels."""
        if self.real is not None:
            self.real.want(wanted)

    def take(self, wanted: Wanted) -> Kernel | Refusal | None:
        """The kernel, where the library has it."""
        return None if self.real is None else self.real.take(wanted)


class LateAlarms:
    """The alarms of a run that begins later: before `real` is there, nothing is told and nothing heard."""

    def __init__(self) -> None:
        self.real: Alarms | None = None

    def told(self, signal: EmergencySignal) -> None:
        """Tell it."""
        if self.real is not None:
            self.real.told(signal)

    def heard(self) -> Sequence[Heard]:
        """What was heard."""
        return () if self.real is None else self.real.heard()

    def begins(self, within_s: float) -> None:
        """A rollback begins."""
        if self.real is not None:
            self.real.begins(within_s)

    def ends(self) -> None:
        """It has ended."""
        if self.real is not None:
            self.real.ends()
