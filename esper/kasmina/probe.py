"""Losses over the probe set and their paired differences: what gates judge with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from esper.kasmina.gates import Paired


@dataclass(frozen=True, slots=True)
class Loss:
    """The probe set's loss: mean, standard error of the mean, and each sample's own, shape (samples,).

    All losses of a run list the same samples in the same order, so that two of them can be compared pair by pair.
    """

    mean: float
    stderr: float
    per_sample: Tensor

    @classmethod
    def of(cls, per_sample: Tensor) -> Loss:
        """The loss whose samples are `per_sample`, any float dtype and device; it is kept as float64 on the CPU."""
        values = per_sample.detach().double().cpu().flatten().clone()
        mean, stderr = _mean_and_stderr(values)
        return cls(mean, stderr, values)


def difference(left: Loss, right: Loss) -> Paired:
    """`left` minus `right`, pair by pair: far less noisy than the difference of two means of the same samples."""
    return Paired(*_mean_and_stderr(left.per_sample - right.per_sample))


def _mean_and_stderr(values: Tensor) -> tuple[float, float]:
    count = values.numel()
    assert count > 0, "a probe set without samples"
    deviation = float(values.std()) if count > 1 else 0.0
    return float(values.mean()), deviation / math.sqrt(count)
