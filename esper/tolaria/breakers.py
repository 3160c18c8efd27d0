"""The trainer's circuit breakers: around Tamiyo's decisions, and around the learning rates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from contracts.leyline.v1.event_pb2 import BreakerChanged
from esper.leyline.breaker import CircuitBreaker
from esper.tolaria.world import World

ISOLATION: Final = "gradient_isolation/"
"""The names of Kasmina's breakers begin with this; the seed's id follows."""


class TrainerBreaker(CircuitBreaker):
    """Opens after 3 failures, is tried again after 30 s, closes after 1 success (R-TOL-32).

    When it changes hangs on a clock, so the world has a say in it. A command forces it without asking.
    """

    def __init__(self, name: str, world: World, monotonic: Callable[[], float]) -> None:
        super().__init__(name, failures=3, window_s=600.0, reset_s=30.0, successes=1, monotonic=monotonic)
        self._world = world

    def poll(self) -> list[BreakerChanged]:
        """Let time pass."""
        return self._world.breaker_changes(self, super().poll)

    def failed(self, reason: str) -> list[BreakerChanged]:
        """Record a failure."""
        return self._world.breaker_changes(self, partial(super().failed, reason), failure=True)

    def succeeded(self) -> list[BreakerChanged]:
        """Record a success."""
        return self._world.breaker_changes(self, super().succeeded)

    def count_failure(self) -> None:
        """Count a failure that changes nothing now."""
        self._failed_at.append(self._monotonic())
