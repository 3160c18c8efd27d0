"""How many parameters seeds may have: a multiple of the host's, and no more than the training set has answers for.

A network with about as many parameters as its targets fix numbers can learn the training set by heart, and the loss on
anything else is at its worst there. So what grows stays well below that. Where a host is beyond it from the start,
nothing grows, and nothing is measured for growth either. Source: Belkin et al., "Reconciling modern machine-learning
practice and the classical bias-variance trade-off", 2019, whose peak lies at N samples times C outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from esper.kasmina.sites import evaluating
from esper.tolaria.config import RunConfig
from esper.tolaria.data import own_random_stream
from esper.tolaria.tasks.task import Task


def budget_of(config: RunConfig, host: nn.Module, targets_fix: int | None) -> int:
    """Parameters that all seeds together may have: a multiple of the host's, and no more than the data allow.

    `targets_fix` is how many numbers the training targets fix; None where that is not known, or nobody asks.
    """
    own = sum(each.numel() for each in host.parameters())
    room = round(config.growth_budget_factor * own)
    if not config.growth_data_share or targets_fix is None:
        return room
    return min(room, max(0, int(config.growth_data_share * targets_fix) - own))


def numbers_fixed(host: nn.Module, task: Task, device: torch.device) -> int:
    """How many independent numbers the training targets fix; the host runs on one sample and stays as it is.

    N samples of float targets fix as many as they have; class targets of C classes C - 1 each, because probabilities
    sum to 1.
    """
    targets = task.train.targets
    fixed = int(sum(leaf.numel() for leaf in tree_leaves(targets)))
    if not task.train.exact or not isinstance(targets, Tensor):
        return fixed
    with torch.no_grad(), own_random_stream(device), evaluating(host):
        outputs = host(task.train.head(1).to(device).inputs)
    if not isinstance(outputs, Tensor):
        return fixed
    return fixed * max(1, outputs.numel() // max(1, targets[:1].numel()) - 1)
