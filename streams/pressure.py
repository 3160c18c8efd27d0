"""What gives way while the log is slow: when telemetry is shed, and how many emergencies overtake.

A writer's **conservative mode** (rulings 23 and 33) begins with the first telemetry event that finds too many of its
kind unacknowledged, or when the log has given up three of them in a row (the breaker `publish`). In it the writer takes
no telemetry of NORMAL priority; facts, emergencies and telemetry of higher priority go on as ever. It lasts a minute at
least, and until few wait and the breaker lets one through again. Source: R-OONA-13 to R-OONA-16, R-TOL-29.

Every call is told the time, in seconds of a clock that never goes back. Only `Writing` is safe for several threads.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from contracts.leyline.v1.leyline_pb2 import CIRCUIT_BREAKER_STATE_CLOSED
from esper.errors import ContractViolation
from esper.leyline.breaker import CircuitBreaker
from esper.leyline.envelope import Event, topic_of
from streams.records import Outgoing, outgoing

LASTS_S: Final = 60.0
LEAVE_SHARE: Final = 0.25
"""Below this share of the limit few wait: 1,000 of 4,000."""
BYPASSES: Final = 60
BYPASS_WINDOW_S: Final = 60.0


class Conservative:
    """A writer's conservative mode; `reason` is why it is on, empty while it is not. `limit` begins it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._leave_below = max(1.0, LEAVE_SHARE * limit)
        self._since = 0.0
        self._now = 0.0
        self.reason = ""
        self.breaker = CircuitBreaker(
            "publish", failures=3, window_s=3600.0, reset_s=30.0, successes=1, in_a_row=True, monotonic=self._time
        )
        """Of telemetry alone: facts wait instead of failing, and a fact that is given up ends the run."""
        self.troubled = False
        """Whether the log's next yes means anything to the breaker."""

    @property
    def on(self) -> bool:
        """Whether nothing normal is taken."""
        return bool(self.reason)

    def sheds(self, waiting: int, now: float) -> bool:
        """Whether telemetry of NORMAL priority is shed, `waiting` of which are unacknowledged."""
        self._now = now
        if self.reason:
            self._leave(waiting, now)
        if not self.reason and waiting >= self._limit:
            self._enter(f"{waiting} telemetry events waited")
        return bool(self.reason)

    def failed(self, why: str, now: float) -> None:
        """The log gave a telemetry event up."""
        self._now, self.troubled = now, True
        self.breaker.failed(why)
        if not self.breaker.allows and not self.reason:
            self._enter(f"the log gave up three in a row: {why}")

    def succeeded(self, now: float) -> None:
        """The log took one."""
        self._now = now
        self.breaker.succeeded()
        self.troubled = self.breaker.state != CIRCUIT_BREAKER_STATE_CLOSED

    def relax(self, waiting: int, now: float) -> None:
        """Let time pass where no telemetry comes."""
        self._now = now
        if self.reason:
            self._leave(waiting, now)

    def _enter(self, reason: str) -> None:
        self.reason, self._since = reason, self._now

    def _leave(self, waiting: int, now: float) -> None:
        self.breaker.poll()
        if now - self._since >= LASTS_S and waiting < self._leave_below and self.breaker.allows:
            self.reason = ""

    def _time(self) -> float:
        return self._now


class Bypass:
    """Lets so many emergencies a minute overtake the facts, and a halt always; `queued` counts the others.

    Those wait in line with the facts. None is ever lost, or waits for room (R-OONA-5).
    """

    def __init__(self) -> None:
        self._passed: deque[float] = deque(maxlen=BYPASSES)
        self.queued = 0

    def allows(self, now: float, *, halts: bool) -> bool:
        """Whether one that comes now overtakes; `halts` says that it is of level 4."""
        full = len(self._passed) == BYPASSES and now - self._passed[0] < BYPASS_WINDOW_S
        if full and not halts:
            self.queued += 1
            return False
        if not full:
            self._passed.append(now)
        return True


class Writing:
    """Turns events into bytes. Telemetry that cannot be written is shed and counted as `unwritten` (R-LEY-19).

    After three such in a row the breaker opens: no telemetry is written for 30 s, and then one is tried. Facts and
    emergencies it never stops.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._judging = threading.Lock()
        self._troubled = False
        self.unwritten = 0
        self.breaker = CircuitBreaker(
            "serialization", failures=3, window_s=3600.0, reset_s=30.0, successes=1, in_a_row=True, monotonic=self._time
        )

    def record(self, event: Event, now: float) -> Outgoing | None:
        """The event as bytes; None where it is shed. Raises ContractViolation for what is no telemetry."""
        if self._troubled and topic_of(event).sheddable and not self._allows(now):
            return None
        try:
            record = outgoing(event)
        except ContractViolation as error:
            if not topic_of(event).sheddable:
                raise
            with self._judging:
                self._now, self._troubled = now, True
                self.unwritten += 1
                self.breaker.failed(str(error))
            return None
        if self._troubled and topic_of(event).sheddable:
            with self._judging:
                self._now = now
                self.breaker.succeeded()
                self._troubled = self.breaker.state != CIRCUIT_BREAKER_STATE_CLOSED
        return record

    def _allows(self, now: float) -> bool:
        with self._judging:
            self._now = now
            self.breaker.poll()
            if not self.breaker.allows:
                self.unwritten += 1
            return self.breaker.allows

    def _time(self) -> float:
        return self._now
