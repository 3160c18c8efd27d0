"""The mean ratio of pairs of measurements and its 95 % interval: what every benchmark says that compares two in turns.

The mean is geometric, and the interval is Student's on the logarithms.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit


@dataclass(frozen=True, slots=True)
class Ratio:
    """The mean ratio and its 95 % interval; infinite where there is one pair."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(here: Sequence[float], there: Sequence[float]) -> Ratio:
    """Of pairs of measurements: exp of the logarithms' mean and of mean ± t(n - 1, 97.5 %) · s / √n."""
    logs = [math.log(mine / other) for mine, other in zip(here, there, strict=True)]
    mean, n = statistics.mean(logs), len(logs)
    half = float(stdtrit(n - 1, 0.975)) * statistics.stdev(logs) / math.sqrt(n) if n > 1 else math.inf
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half) if half < math.inf else math.inf)
