"""What a run is worth: one formula for everything that learns or judges, and the published reward as an option.

    utility = -(final probe loss + price * training FLOPs / the control's)

It is undiscounted and paid at the run's end alone. A reward at a time that the policy chooses is farmed: the living
reference lost 16 to 52 % of its decisions to that. `price` says how much loss a control run's FLOPs are worth; it is
part of every result, and so is the curve over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PRICES: Final = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Over these the curve is told."""
PRICE: Final = 0.03
"""Nats of probe loss for as many FLOPs more as the whole control run has cost."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What a run came to.

    `loss` and `accuracy` are of the whole probe set after the last step, in the task's units and from 0 to 1.
    `training_flops` are those of steps and side passes, what was undone included; `flops` are all. `params` counts the
    final network's parameters.
    """

    loss: float
    accuracy: float
    training_flops: float
    flops: float
    params: int
    status: str = "completed"


def utility(ending: Ending, control_flops: float, price: float = PRICE) -> float:
    """The worth of a run whose control, which never grew, has spent `control_flops` in training; more is better."""
    return -(ending.loss + price * ending.training_flops / control_flops)


def published_reward(
    *,
    succeeded: bool,
    accuracy_change: float,
    resource: float,
    stabilities: Sequence[float],
    failures: int,
    seconds: float,
) -> float:
    """The reward of the original design (policy sheet 2.3, R-SIM-15), for comparison; no policy here is trained by it.

    10 for success, 0.4 * 100 * the change of accuracy (from 0 to 1), 0.3 over the resources used (a share, 0.1 at
    least), 0.3 * 10 * the mean stability of the seeds, -2 a failure, and -1 for each second beyond five.
    """
    stability = sum(stabilities) / len(stabilities) if stabilities else 0.0
    return (
        10.0 * succeeded
        + 0.4 * 100.0 * accuracy_change
        + 0.3 / max(resource, 0.1)
        + 0.3 * 10.0 * stability
        - 2.0 * failures
        - max(0.0, seconds - 5.0)
    )
