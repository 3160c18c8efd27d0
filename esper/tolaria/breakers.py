"""The trainer's breakers: what opens and closes them hangs on a clock, so a past that is followed says when."""

from __future__ import annotations

from collections.abc import Callable

from contracts.leyline.v1.event_pb2 import BreakerChanged
from esper.leyline.breaker import CircuitBreaker
from esper.tolaria.past import Past


class FollowingBreaker(CircuitBreaker):
    """Opens after 3 failures, is tried again after 30 s, closes after 1 success (R-TOL-32).

    While the run's past is followed it changes when the record says so; a command forces it as ever.
    """

    def __init__(self, name: str, past: Past, monotonic: Callable[[], float]) -> None:
        super().__init__(name, failures=3, window_s=600.0, reset_s=30.0, successes=1, monotonic=monotonic)
        self._past = past

    def poll(self) -> list[BreakerChanged]:
        """Let time pass."""
        return super().poll() if self._past.over else self._recorded()

    def failed(self, reason: str) -> list[BreakerChanged]:
        """Record a failure; one that was followed counts when the run is live again."""
        if self._past.over:
            return super().failed(reason)
        self._failed_at.append(self._monotonic())
        return self._recorded()

    def succeeded(self) -> list[BreakerChanged]:
        """Record a success."""
        return super().succeeded() if self._past.over else self._recorded()

    def _recorded(self) -> list[BreakerChanged]:
        fact = self._past.here("breaker_changed")
        if fact is None or fact.breaker_changed.breaker != self.name:
            return []
        change = BreakerChanged.FromString(fact.breaker_changed.SerializeToString())
        self.force(change.to_state, change.reason)
        return [change]
