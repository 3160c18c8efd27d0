"""Says when a step must not be taken: a loss or gradient that is no number or far above what may be expected."""

from __future__ import annotations

import math
from typing import Any, Final

SMOOTHING: Final = 0.2
"""Weight of the newest loss in the expected one."""

NORMS: Final = 20
"""Steps at the beginning whose gradient norms say what is usual. Not the newest: an explosion may grow step by step."""


class Guard:
    """Judges every step by the losses before it (R-TOL-31).

    The expected loss is the smoothed mean of what was seen, and never less than a `factor`-th of the first loss: a
    network that has almost learnt its task must not panic over one hard batch. A gradient norm, before clipping, above
    `gradient_factor` times the mean of the run's first steps has exploded: clipped to `clip_norm` it would point where
    one part of the network wants to go, and the others would stand still. What is not clipped is no explosion.
    """

    def __init__(self, factor: float, *, gradient_factor: float, clip_norm: float) -> None:
        self._factor = factor
        self._gradient_factor = gradient_factor
        self._clip_norm = clip_norm
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
        """What was seen so far."""
        return {"first": self._first, "expected": self._expected, "norm": self._norm, "norms": self._norms}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._first, self._expected = state["first"], state["expected"]
        self._norm, self._norms = state.get("norm", 0.0), state.get("norms", 0)  # older checkpoints know none
