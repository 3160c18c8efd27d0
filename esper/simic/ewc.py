"""Elastic weight consolidation: what a network knew is kept by a penalty on the weights that it depends on.

The penalty is (weight / 2) * sum F (theta - anchor)^2 with F the diagonal of the Fisher information, estimated from
squared gradients of log-likelihoods. Source: Kirkpatrick et al., "Overcoming catastrophic forgetting", 2017
(arXiv 1612.00796), equation 3; R-SIM-24.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import torch
from torch import Tensor, nn

from esper.errors import InvalidInput

SAMPLES: Final = 200
WEIGHT: Final = 0.1


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a network stood, and how much each of its parameters mattered there, by the parameters' names."""

    places: dict[str, Tensor]
    importance: dict[str, Tensor]


def anchor(network: nn.Module, log_likelihoods: Iterable[Tensor], samples: int = SAMPLES) -> Anchor:
    """The anchor at the network as it is now, from at most `samples` log-likelihoods of single decisions.

    Each is a scalar that depends on the network; they are asked for one by one. Raises InvalidInput without any.
    """
    trained = {name: each for name, each in network.named_parameters() if each.requires_grad}
    sums = {name: torch.zeros_like(each) for name, each in trained.items()}
    count = 0
    for one in islice(log_likelihoods, samples):
        gradients = torch.autograd.grad(one, list(trained.values()), allow_unused=True)
        for name, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient**2
        count += 1
    if not count:
        raise InvalidInput("an anchor needs decisions: there is no experience to estimate from")
    return Anchor(
        places={name: each.detach().clone() for name, each in trained.items()},
        importance={name: total / count for name, total in sums.items()},
    )


def penalty(network: nn.Module, at: Anchor, weight: float = WEIGHT) -> Tensor:
    """What is added to the loss: 0 at the anchor, and growing with the square of the distance from it."""
    parameters = dict(network.named_parameters())
    terms = [
        (importance * (parameters[name] - at.places[name]) ** 2).sum() for name, importance in at.importance.items()
    ]
    return 0.5 * weight * torch.stack(terms).sum()
