"""Says when a step must not be taken: a loss or gradient that is no number, or a loss far above what was expected."""

from __future__ import annotations

import math
from typing import Any, Final

SMOOTHING: Final = 0.2
"""Weight of the newest loss in the expected one."""


class Guard:
    """Judges every step by the losses before it (R-TOL-31).

    The expected loss is the smoothed mean of what was seen, and never less than a `factor`-th of the first loss: a
    network that has almost learnt its task must not panic over one hard batch.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._first: float | None = None
        self._expected = 0.0

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
        self._expected += SMOOTHING * (loss - self._expected)
        return ""

    def state(self) -> dict[str, Any]:
        """What was seen so far."""
        return {"first": self._first, "expected": self._expected}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._first, self._expected = state["first"], state["expected"]
