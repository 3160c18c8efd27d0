"""Advantages and value targets of recorded decisions: generalised advantage estimation, and V-trace for older policies.

Every tensor is (steps, ...): the first dimension is time, the others are runs side by side. `ended[t]` is 1 where
nothing comes after step t, so that neither a value nor an advantage flows back over it.

Sources: Schulman et al., "High-dimensional continuous control using generalized advantage estimation", 2015
(arXiv 1506.02438), equation 16; Espeholt et al., "IMPALA", 2018 (arXiv 1802.01561), equation 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from esper.errors import InvalidInput

DISCOUNT: Final = 0.99
SMOOTHING: Final = 0.95
"""Lambda. Both are R-SIM-17's; growth's own utility is undiscounted (1 and 1), because it is paid at a run's end."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """What a policy and a value learn from: advantages, and the targets of the value, both (steps, ...)."""

    advantages: Tensor
    targets: Tensor


def compute_gae(
    rewards: Tensor,
    values: Tensor,
    ended: Tensor,
    last_value: Tensor,
    *,
    discount: float = DISCOUNT,
    smoothing: float = SMOOTHING,
) -> Estimates:
    """Advantages by GAE, and returns (advantage plus value) as the value's targets.

    `last_value` (...) is the value of the state after the last step; it counts only where that step did not end. Raises
    InvalidInput where the shapes differ.
    """
    _check(rewards, values, ended, last_value)
    lives = 1.0 - ended.to(values.dtype)
    following = torch.cat([values[1:], last_value.unsqueeze(0)])
    surprises = rewards + discount * following * lives - values
    return _backwards(surprises, discount * smoothing * lives, values)


@dataclass(frozen=True, slots=True)
class Trace:
    """V-trace's answer: `targets` for the value, `advantages` for the policy, and the importance weights, uncapped."""

    targets: Tensor
    advantages: Tensor
    ratios: Tensor


def v_trace(
    log_ratios: Tensor,
    rewards: Tensor,
    values: Tensor,
    ended: Tensor,
    last_value: Tensor,
    *,
    discount: float = DISCOUNT,
    rho_cap: float = 1.0,
    c_cap: float = 1.0,
) -> Trace:
    """Value targets and advantages for decisions that another policy took.

    `log_ratios` is the log-probability of each action under the policy that learns, less that under the one that took
    it. With equal policies the targets are n-step returns. Raises InvalidInput where the shapes differ.
    """
    _check(rewards, values, ended, last_value)
    if log_ratios.shape != rewards.shape:
        raise InvalidInput(f"log_ratios {tuple(log_ratios.shape)} and rewards {tuple(rewards.shape)} differ in shape")
    ratios = log_ratios.exp()
    rho, c = ratios.clamp(max=rho_cap), ratios.clamp(max=c_cap)
    lives = 1.0 - ended.to(values.dtype)
    following = torch.cat([values[1:], last_value.unsqueeze(0)])
    surprises = rho * (rewards + discount * following * lives - values)
    targets = _backwards(surprises, discount * c * lives, values).targets
    after = torch.cat([targets[1:], last_value.unsqueeze(0)])
    advantages = rho * (rewards + discount * after * lives - values)
    return Trace(targets=targets, advantages=advantages, ratios=ratios)


def _backwards(surprises: Tensor, carries: Tensor, values: Tensor) -> Estimates:
    """Sum each surprise with what follows it, each step back multiplied by `carries`."""
    advantages = torch.empty_like(surprises)
    carried = torch.zeros_like(surprises[0])
    for step in range(len(surprises) - 1, -1, -1):
        carried = surprises[step] + carries[step] * carried
        advantages[step] = carried
    return Estimates(advantages=advantages, targets=advantages + values)


def _check(rewards: Tensor, values: Tensor, ended: Tensor, last_value: Tensor) -> None:
    shapes = (rewards.shape, values.shape, ended.shape)
    if not len(rewards) or len(set(shapes)) != 1 or last_value.shape != rewards.shape[1:]:
        raise InvalidInput(
            f"rewards, values and ended must have one shape (steps, ...) and last_value the rest of it, not "
            f"{', '.join(str(tuple(shape)) for shape in (*shapes, last_value.shape))}"
        )
