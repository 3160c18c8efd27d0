"""What protects a run: the guard that judges each step, conservative mode, and the trainer's circuit breakers.

In conservative mode the network does not grow, as long as any reason for it holds (R-TOL-32, R-TOL-33).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import BreakerChanged, ConservativeModeChanged
from esper.leyline.breaker import CircuitBreaker
from esper.tolaria.world import World

SMOOTHING: Final = 0.2
"""Weight of the newest loss in the expected one."""

NORMS: Final = 20
"""Steps at the beginning whose gradient norms say what is usual. Not the newest: an explosion may grow step by step."""

ISOLATION: Final = "gradient_isolation/"
"""The names of Kasmina's breakers begin with this; the seed's id follows."""


class Guard:
    """Judges every step by the losses before it (R-TOL-31).

    The expected loss is the smoothed mean of what was seen, and never less than a `factor`-th of the first loss: a
    network that has almost learnt its task must survive one hard batch. A gradient norm, before clipping, above
    `gradient_factor` times the mean of the run's first steps has exploded: clipped to `clip_norm` it would point where
    one part of the network wants to go, and the others would stand still. What is not clipped is no explosion.
    """

    def __init__(self, factor: float, *, gradient_factor: float, clip_norm: float | None) -> None:
        self._factor = factor
        self._gradient_factor = gradient_factor
        self._clip_norm = clip_norm or 0.0
        self._first: float | None = None
        self._expected = 0.0
        self._norm = 0.0
        self._norms = 0

    def trouble(self, loss: float, gradient_norm: float) -> str:
        """Why the step must not be taken, or an empty string; only a good step moves the expectation."""
        if not math.isfinite(loss):
            return "non_finite_loss"
        if not math.isfinite(gradient_norm):
            return "non_finite_gradient"
        if self._first is None:
            self._first = self._expected = loss
        # A loss that may be negative has no "times as high": then only the first two checks hold.
        if self._first > 0 and loss > self._factor * max(self._expected, self._first / self._factor):
            return "divergence"
        if self._norms == NORMS and gradient_norm > max(self._clip_norm, self._gradient_factor * self._norm):
            return "exploding_gradient"
        self._expected += SMOOTHING * (loss - self._expected)
        if self._norms < NORMS:
            self._norms += 1
            self._norm += (gradient_norm - self._norm) / self._norms
        return ""

    def state(self) -> dict[str, Any]:
        """First and expected loss, and the mean gradient norm so far."""
        return {"first": self._first, "expected": self._expected, "norm": self._norm, "norms": self._norms}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._first, self._expected = state["first"], state["expected"]
        self._norm, self._norms = state.get("norm", 0.0), state.get("norms", 0)  # older checkpoints know none


class ConservativeMode:
    """The set of reasons why nothing may be added to the network; each is entered and cleared by its name."""

    def __init__(self) -> None:
        self._reasons: set[str] = set()

    @property
    def on(self) -> bool:
        """Whether any reason holds."""
        return bool(self._reasons)

    def enter(self, reason: str) -> list[ConservativeModeChanged]:
        """Add a reason; a change of the mode only where it is the first."""
        first = not self._reasons
        self._reasons.add(reason)
        return [ConservativeModeChanged(entered=True, reason=reason)] if first else []

    def clear(self, reason: str) -> list[ConservativeModeChanged]:
        """Drop a reason; a change of the mode only where it was the last."""
        if reason not in self._reasons:
            return []
        self._reasons.remove(reason)
        return [] if self._reasons else [ConservativeModeChanged(entered=False, reason=reason)]


ALARM: Final = "emergency"
"""The breaker that opens at an emergency which somebody else has signalled."""


SECURITY: Final = "security"
"""... that opens at commands which the holder of a live key has signed and which no honest one sends (R-SEC-15)."""

KERNELS: Final = "kernel_loading"
"""... that opens where the library's kernels cannot be used; modules are built here then, and nothing else changes."""

MEMORY: Final = "memory_bounds"
"""... that opens where seeds keep more memory than they may."""

SWAPS: Final = "recompilation"
"""... that opens where compiled kernels cannot take the place of eager ones; the eager ones serve on then."""

FALLS_BACK: Final = frozenset({KERNELS, SWAPS})
"""Breakers that have something else to do instead: the run is in no conservative mode while one is open."""


class TrainerBreaker(CircuitBreaker):
    """Opens after 3 failures, is tried again after 30 s, closes after 1 success (R-TOL-32), or as it is told.

    When it changes depends on a clock, so its changes come from the world. A command forces it directly.
    """

    def __init__(
        self,
        name: str,
        world: World,
        monotonic: Callable[[], float],
        *,
        failures: int = 3,
        window_s: float = 600.0,
        successes: int = 1,
    ) -> None:
        super().__init__(
            name, failures=failures, window_s=window_s, reset_s=30.0, successes=successes, monotonic=monotonic
        )
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
