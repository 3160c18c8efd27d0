"""A circuit breaker as a pure state machine: closed, open, half-open.

`failures` failures within `window_s` open it. After `reset_s` it is half-open: the next calls are trials, `successes`
of them in a row close it and a single failure opens it again. With `in_a_row` a success wipes out the failures before
it, so that only an unbroken row of them opens it. Every change comes back as the `BreakerChanged` body that the caller
must publish; nothing else tells of it. Source: R-KAS-26, R-KARN-12.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from contracts.leyline.v1.event_pb2 import BreakerChanged
from contracts.leyline.v1.leyline_pb2 import (
    CIRCUIT_BREAKER_STATE_CLOSED,
    CIRCUIT_BREAKER_STATE_HALF_OPEN,
    CIRCUIT_BREAKER_STATE_OPEN,
    CircuitBreakerState,
)
from esper.errors import InvalidInput

STATE_NAMES: Final[Mapping[int, str]] = {
    CIRCUIT_BREAKER_STATE_CLOSED: "closed",
    CIRCUIT_BREAKER_STATE_OPEN: "open",
    CIRCUIT_BREAKER_STATE_HALF_OPEN: "half-open",
}
STATE_NUMBERS: Final = ", ".join(f"{number} {name}" for number, name in STATE_NAMES.items())
"""The number of each state wherever a breaker is a number: in events, metrics, alerts and dashboards."""


class CircuitBreaker:
    """Counts failures of one thing and says whether to try it.

    `monotonic` gives seconds on a clock that never goes back. Each method returns the changes that it made, mostly
    none. Not safe for several threads at once.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        window_s: float = 60.0,
        reset_s: float = 30.0,
        successes: int = 3,
        in_a_row: bool = False,
        monotonic: Callable[[], float],
    ) -> None:
        if failures < 1 or successes < 1 or window_s <= 0 or reset_s < 0:
            raise InvalidInput(
                f"breaker {name}: failures and successes must be 1 at least and times positive, not "
                f"failures={failures} successes={successes} window_s={window_s} reset_s={reset_s}"
            )
        self.name = name
        self._limit = failures
        self._window_s = window_s
        self._reset_s = reset_s
        self._successes_needed = successes
        self._in_a_row = in_a_row
        self._monotonic = monotonic
        self._state = CIRCUIT_BREAKER_STATE_CLOSED
        self._failed_at: deque[float] = deque(maxlen=failures)
        self._opened_at = 0.0
        self._trials_passed = 0

    @property
    def state(self) -> CircuitBreakerState:
        """The state as of the last call; `poll` first where time alone may have changed it."""
        return self._state

    @property
    def allows(self) -> bool:
        """Whether the guarded thing may be tried: always, unless the breaker is open."""
        return self._state != CIRCUIT_BREAKER_STATE_OPEN

    def poll(self) -> list[BreakerChanged]:
        """Let time pass: an open breaker becomes half-open once `reset_s` is over."""
        if self._state == CIRCUIT_BREAKER_STATE_OPEN and self._monotonic() - self._opened_at >= self._reset_s:
            return self._move(CIRCUIT_BREAKER_STATE_HALF_OPEN, f"{self._reset_s:g} s are over")
        return []

    def failed(self, reason: str) -> list[BreakerChanged]:
        """Record a failure. One more while the breaker is open changes nothing."""
        changes = self.poll()
        if self._state == CIRCUIT_BREAKER_STATE_OPEN:
            return changes
        now = self._monotonic()
        self._failed_at.append(now)
        tripped = len(self._failed_at) == self._limit and now - self._failed_at[0] <= self._window_s
        if tripped or self._state == CIRCUIT_BREAKER_STATE_HALF_OPEN:
            changes += self._move(CIRCUIT_BREAKER_STATE_OPEN, reason)
        return changes

    def succeeded(self) -> list[BreakerChanged]:
        """Record a success: it counts while half-open, and otherwise only where failures are counted in a row."""
        changes = self.poll()
        if self._in_a_row and self._state == CIRCUIT_BREAKER_STATE_CLOSED:
            self._failed_at.clear()
        if self._state == CIRCUIT_BREAKER_STATE_HALF_OPEN:
            self._trials_passed += 1
            if self._trials_passed >= self._successes_needed:
                changes += self._move(CIRCUIT_BREAKER_STATE_CLOSED, f"{self._trials_passed} trials passed")
        return changes

    def force(self, state: CircuitBreakerState, reason: str) -> list[BreakerChanged]:
        """Put the breaker into `state`, as a circuit-breaker command asks; no change where it is there already."""
        if state not in (
            CIRCUIT_BREAKER_STATE_CLOSED,
            CIRCUIT_BREAKER_STATE_OPEN,
            CIRCUIT_BREAKER_STATE_HALF_OPEN,
        ):
            raise InvalidInput(f"breaker {self.name}: {state} is no state that a breaker can be put into")
        return [] if state == self._state else self._move(state, reason)

    def _move(self, state: CircuitBreakerState, reason: str) -> list[BreakerChanged]:
        change = BreakerChanged(
            breaker=self.name, from_state=self._state, to_state=state, reason=reason, failures=len(self._failed_at)
        )
        self._state = state
        self._trials_passed = 0
        if state == CIRCUIT_BREAKER_STATE_OPEN:
            self._opened_at = self._monotonic()
        elif state == CIRCUIT_BREAKER_STATE_CLOSED:
            self._failed_at.clear()
        return [change]
