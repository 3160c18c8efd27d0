"""What a fresh candidate would learn first: how far the loss falls for a unit step of weights that are still zero.

A candidate is some fresh units, with ordinary incoming and zero outgoing weights, attached to the host in thought. Its
output is zero, so the host's own pass is also the pass with all candidates at all sites, and the gradient of a
candidate's outgoing weights needs nothing but their input and the gradient of what they are added to. The squared norm
of that gradient is the first-order fall of the batch's mean loss for a step of that length: the same measure at every
place and for every kind of growth. Source: Evci et al., "GradMax: growing neural networks using gradient information",
2022, which maximises it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from contracts.leyline.v1.event_pb2 import SiteDescription
from esper.kasmina.sites import channel_axis, derived_seed


def drawn(seed_id: str, units: int, fan_in: int) -> tuple[Tensor, Tensor]:
    """Incoming weights (units, fan_in) and biases (units) of a candidate, on the CPU, uniform within ±1/sqrt(fan_in).

    From a stream of the place's own, and always the same, so that two epochs differ by the host alone.
    """
    generator = torch.Generator().manual_seed(derived_seed(0, f"candidate/{seed_id}"))
    bound = 1.0 / math.sqrt(fan_in)
    weights = torch.empty(units, fan_in).uniform_(-bound, bound, generator=generator)
    return weights, torch.empty(units).uniform_(-bound, bound, generator=generator)


def residual_descent(site: SiteDescription, activation: Tensor, gradient: Tensor) -> float:
    """Of a residual block after `site`: as many rectified units as the site has channels, each position by itself.

    `activation` and `gradient`, of the batch's mean loss, are (batch, …) as the site gives them.
    """
    axis = channel_axis(site.shape_kind)
    h_NC = activation.movedim(axis, -1).flatten(0, -2)  # noqa: N806 - axes
    g_NC = gradient.movedim(axis, -1).flatten(0, -2)  # noqa: N806
    channels = h_NC.shape[1]
    weights, biases = (each.to(h_NC) for each in drawn(site.seed_id, channels, channels))
    return outgoing_descent(torch.relu(torch.addmm(biases, h_NC, weights.T)), g_NC)


def outgoing_descent(units_NU: Tensor, gradient_NC: Tensor) -> float:  # noqa: N803 - axes in the name
    """The squared norm of the gradient of zero weights from `units_NU` to what has the gradient `gradient_NC`."""
    return float((gradient_NC.T @ units_NU).double().square().sum())
