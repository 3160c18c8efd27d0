"""The mean of a few values and how sure it is: half its 95 % interval by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

T_975: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t at 97.5 % for 1 to 30 degrees of freedom; above, 30 stands for all, which makes an interval 4 % too wide
at most."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The mean of `count` values; `half` is half its 95 % interval, None below two values."""

    mean: float
    half: float | None
    count: int

    @property
    def holds_zero(self) -> bool:
        """Whether 0 lies in the interval: then the values are within noise of 0. One value says nothing about noise."""
        return self.half is None or abs(self.mean) <= self.half


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of values, of which those that are no finite numbers are left out; None where none is left."""
    known = [value for value in values if math.isfinite(value)]
    count = len(known)
    if not count:
        return None
    mean = math.fsum(known) / count
    if count < 2:
        return Spread(mean, None, count)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (count - 1))
    return Spread(mean, T_975[min(count - 1, len(T_975)) - 1] * deviation / math.sqrt(count), count)
