"""Paired differences over seeds: their mean with a 95 % interval, the worst pair, and what counts as noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from scipy.special import stdtrit

from tests.bench.growth.jobs import Measure

WORST_POINT: Final = -1.0
"""Accuracy: an interval that holds 0 and ends above this, in points, is within noise."""

WORST_LOSS_SHARE: Final = -0.02
"""Loss: the same as a share of the other's mean loss."""


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval of paired differences (Student's t); NaN for fewer than two."""
    mean = statistics.fmean(differences) if differences else math.nan
    if len(differences) < 2:
        return mean, math.nan
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return mean, float(stdtrit(len(differences) - 1, 0.975)) * error


@dataclass(frozen=True, slots=True)
class Paired:
    """How much better one arm is than another over the seeds that both have; more is better, whatever the measure.

    Accuracy in points; loss in nats, how much lower. `scale` is the other arm's mean loss.
    """

    measure: Measure
    mean: float
    half: float
    worst: float
    pairs: int
    scale: float

    @property
    def known(self) -> bool:
        """Whether there are two pairs at least, so that there is an interval."""
        return self.pairs > 1

    @property
    def better(self) -> bool:
        """The interval lies above 0."""
        return self.mean - self.half > 0

    @property
    def worse(self) -> bool:
        """The interval lies below 0."""
        return self.mean + self.half < 0

    @property
    def within_noise(self) -> bool:
        """The interval holds 0, and its lower end is above -1 point or -2 % of the loss."""
        limit = WORST_POINT if self.measure == "accuracy" else WORST_LOSS_SHARE * self.scale
        return self.mean - self.half <= 0 <= self.mean + self.half and self.mean - self.half > limit

    def __str__(self) -> str:
        """`+1.23 ± 0.45`, a loss with one digit more."""
        digits = 2 if self.measure == "accuracy" else 3
        if not self.pairs:
            return "none"
        half = f" ± {self.half:.{digits}f}" if self.known else " (one pair)"
        return f"{self.mean:+.{digits}f}{half}"


def paired(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], measure: Measure) -> Paired:
    """The differences of the rows of two arms, seed by seed."""
    theirs = {row["seed"]: row for row in other}
    pairs = [(row, theirs[row["seed"]]) for row in one if row["seed"] in theirs]
    if measure == "accuracy":
        differences = [100 * (mine["accuracy"] - its["accuracy"]) for mine, its in pairs]
    else:
        differences = [its["loss"] - mine["loss"] for mine, its in pairs]
    mean, half = interval(differences)
    scale = statistics.fmean(its["loss"] for _, its in pairs) if pairs else math.nan
    return Paired(measure, mean, half, min(differences, default=math.nan), len(pairs), scale)


def total(row: dict[str, Any]) -> float:
    """Every FLOP that the run has spent; `rewound` is a part of these, not one more."""
    return float(sum(spent for purpose, spent in row["flops"].items() if purpose != "rewound"))


def cost(row: dict[str, Any]) -> float:
    """What a comparison at equal FLOPs counts: of a run that can grow everything, of a static one its steps alone.

    Whoever trains a static net needs no probes.
    """
    grown = row["arm"].startswith("grown") or row["arm"] == "direct"
    return total(row) if grown else float(row["flops"]["training"])


def mean(rows: Sequence[dict[str, Any]], field: str) -> float:
    """The mean of one column; NaN without a row."""
    return statistics.fmean(row[field] for row in rows) if rows else math.nan
