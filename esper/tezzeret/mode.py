"""When the forge goes carefully: two breakers and the machine's memory decide (R-TEZ-9, R-TEZ-10).

There is no GPU breaker: kernels are compiled on the CPU, with every GPU hidden from the child.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from contracts.leyline.v1.event_pb2 import BreakerChanged
from contracts.leyline.v1.leyline_pb2 import CIRCUIT_BREAKER_STATE_OPEN
from esper.leyline.breaker import CircuitBreaker

MEMORY_LIMIT: Final = 0.8
"""Share of the machine's memory in use above which jobs become careful."""
WINDOW_S: Final = 3_600.0
"""Failures count within an hour: two jobs that run into a limit of minutes fail that far apart."""


class Breakers:
    """One breaker for children that took too much memory and one for those that took too long."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._by_kind = {
            "memory": CircuitBreaker(
                "tezzeret_memory", failures=3, window_s=WINDOW_S, reset_s=30.0, successes=3, monotonic=monotonic
            ),
            "timeout": CircuitBreaker(
                "tezzeret_timeout", failures=2, window_s=WINDOW_S, reset_s=300.0, successes=3, monotonic=monotonic
            ),
        }

    def failed(self, kind: str, reason: str) -> list[BreakerChanged]:
        """Record a failed attempt; kinds without a breaker, such as a template's own error, count nowhere."""
        breaker = self._by_kind.get(kind)
        return breaker.failed(reason) if breaker is not None else []

    def succeeded(self) -> list[BreakerChanged]:
        """Record an attempt that stayed within both limits."""
        return [change for breaker in self._by_kind.values() for change in breaker.succeeded()]

    def poll(self) -> list[BreakerChanged]:
        """Let time pass."""
        return [change for breaker in self._by_kind.values() for change in breaker.poll()]

    def open_ones(self) -> list[str]:
        """The names of those that are open."""
        return [each.name for each in self._by_kind.values() if each.state == CIRCUIT_BREAKER_STATE_OPEN]


def conservative_reason(open_breakers: list[str], memory_used: float) -> str:
    """Why to be conservative, in one line; empty where there is no reason. `memory_used` is a share of 1."""
    if open_breakers:
        return f"open: {', '.join(open_breakers)}"
    if memory_used > MEMORY_LIMIT:
        return f"{memory_used:.0%} of the memory is in use, above {MEMORY_LIMIT:.0%}"
    return ""
