"""The normaliser: an exponentially weighted mean and variance of a run's metrics, carried in the observation.

The trainer keeps it and puts what the epochs before came to into each state packet, so a decision is made again from
its packet alone. Wall-clock metrics have priors like the others (R-TAM-5) and are only shown: no decision may depend
on how busy the machine is, and no packet carries them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import Normalizer

ALPHA: Final = 0.1
VARIANCE_FLOOR: Final = 1e-6
PRIORS: Final[dict[str, tuple[float, float]]] = {
    "loss": (0.8, 0.3),
    "gradient_norm": (1.0, 0.5),
    "samples_per_s": (4500.0, 500.0),
    "hook_latency_ms": (12.0, 6.0),
    "training_loss": (0.8, 0.3),
}
"""Mean and standard deviation before anything was seen (R-TAM-5); training loss as loss."""
CARRIED: Final = ("loss", "gradient_norm", "training_loss")
"""The metrics of a packet's `normalizer`, in its order: what two runs of the same seed agree on."""


@dataclass(frozen=True, slots=True)
class Running:
    """One metric: mean, variance and how many values made them."""

    mean: float
    variance: float
    updates: int = 0

    @classmethod
    def prior(cls, metric: str) -> Running:
        """Before the first value."""
        mean, deviation = PRIORS[metric]
        return cls(mean, deviation**2)

    def after(self, value: float | None) -> Running:
        """With one more value: EWMA of alpha 0.1, variance at least 1e-6; an absent or infinite one changes nothing."""
        if value is None or not math.isfinite(value):
            return self
        gap = value - self.mean
        variance = (1.0 - ALPHA) * (self.variance + ALPHA * gap * gap)
        if not math.isfinite(variance):
            return self
        return replace(
            self, mean=self.mean + ALPHA * gap, variance=max(VARIANCE_FLOOR, variance), updates=self.updates + 1
        )

    def score(self, value: float) -> float:
        """How many standard deviations `value` is above the mean."""
        return (value - self.mean) / math.sqrt(max(self.variance, VARIANCE_FLOOR))


Normalised = dict[str, Running]


def fresh() -> Normalised:
    """A run's normaliser before its first epoch."""
    return {metric: Running.prior(metric) for metric in CARRIED}


def updated(before: Normalised, values: Mapping[str, float]) -> Normalised:
    """After an epoch; what `values` lacks stays as it is (R-TAM-4)."""
    return {metric: running.after(values.get(metric)) for metric, running in before.items()}


def to_message(running: Normalised) -> Normalizer:
    """As a packet carries it."""
    rows = [running[metric] for metric in CARRIED]
    return Normalizer(
        mean=[row.mean for row in rows], variance=[row.variance for row in rows], updates=[row.updates for row in rows]
    )


def of_message(message: Normalizer) -> Normalised:
    """What a packet carries; the priors where it is an older one, which has none."""
    found = fresh()
    for metric, mean, variance, updates in zip(CARRIED, message.mean, message.variance, message.updates, strict=False):
        if math.isfinite(mean) and math.isfinite(variance):
            found[metric] = Running(mean, max(VARIANCE_FLOOR, variance), updates)
    return found


def to_state(running: Normalised) -> dict[str, Any]:
    """For a kept state, as plain values."""
    return {metric: [row.mean, row.variance, row.updates] for metric, row in running.items()}


def of_state(state: Mapping[str, Any] | None) -> Normalised:
    """From a kept state; the priors where an earlier Esper kept it."""
    rows = {metric: Running(*row) for metric, row in (state or {}).items() if metric in PRIORS}
    return fresh() | rows
