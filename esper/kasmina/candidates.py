"""What a fresh candidate would learn first: how far the loss falls for a unit step of weights that are still zero.

A candidate is some fresh units, with ordinary incoming and zero outgoing weights, attached to the host in thought. Its
output is zero, so the host's own pass is also the pass with all candidates at all sites, and the gradient of a
candidate's outgoing weights needs nothing but their input and the gradient of what they are added to. The squared norm
of that gradient is the first-order fall of the batch's mean loss for a step of that length: the same measure at every
place and for every kind of growth. Source: Evci et al., "GradMax: growing neural networks using gradient information",
2022, which maximises it.

At most `TRIED` units are tried at a place, and the figure is scaled to as many as the place has channels or units: the
expectation of the squared norm is proportional to their number, and evidence must stay cheap: eight units beside the
eight of each layer of a small table's host made the pass 2.5 times as dear, two 1.3 times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import SiteDescription
from esper.kasmina.sites import channel_axis, derived_seed
from esper.kasmina.width import Weights, Widening

TRIED: Final = 2


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
    tried = min(channels, TRIED)
    weights, biases = (each.to(h_NC) for each in drawn(site.seed_id, tried, channels))
    units_NU = torch.relu(torch.addmm(biases, h_NC, weights.T))  # noqa: N806
    return channels / tried * _squared(g_NC.T @ units_NU)


@contextmanager
def wider(host: nn.Module, sites: Sequence[SiteDescription]) -> Iterator[dict[str, Tensor]]:
    """The host with a candidate at each of the places where it can become wider, for a pass in evaluation mode.

    Yields the outgoing weights by seed id: zero, and leaves that take a gradient.
    """
    outgoing: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for site in sites:
            weights = _fresh(site, host.get_submodule(site.site).get_parameter("weight"))
            outgoing[site.seed_id] = weights["consumer_weight"]
            held = Widening(host, site, lambda weights=weights: weights)  # type: ignore[misc]  # the loop's own
            stack.callback(held.remove)
        yield outgoing


def wider_descent(site: SiteDescription, gradient: Tensor) -> float:
    """Of a wider layer, from the gradient of its candidate's outgoing weights."""
    return site.width.units / _tried(site) * _squared(gradient)


def own_channels(site: SiteDescription, figures: Tensor) -> Tensor:
    """What a site's activation or gradient, (batch, …), is without the candidates' units, the last of each section."""
    axis = channel_axis(site.shape_kind)
    channels, sections = site.shape[axis - 1], max(1, site.width.sections)
    if figures.shape[axis] <= channels:
        return figures
    return torch.cat([each.narrow(axis, 0, channels // sections) for each in figures.chunk(sections, axis)], axis)


def _tried(site: SiteDescription) -> int:
    """Units of a candidate, whole groups of them where a norm between asks for that, or whole heads."""
    group = max(1, site.width.group)
    return group * max(1, min(site.width.units, TRIED) // group)


def _fresh(site: SiteDescription, like: Tensor) -> Weights:
    """The weights of a candidate where a host can become wider, as `Widening` takes them."""
    place, units = site.width, _tried(site)
    outputs, each, *kernel = place.outgoing
    rows = units * max(1, place.sections)
    incoming, biases = drawn(site.seed_id, rows, math.prod(place.incoming))
    weights = {
        "producer_weight": incoming.reshape(rows, *place.incoming),
        "consumer_weight": torch.zeros(outputs, units * each, *kernel),
    }
    if place.bias:
        weights["producer_bias"] = biases
    for number, running in enumerate(place.running):
        weights |= {f"norm_{number}_weight": torch.ones(units), f"norm_{number}_bias": torch.zeros(units)}
        if running:
            weights |= {f"norm_{number}_mean": torch.zeros(units), f"norm_{number}_var": torch.ones(units)}
    found = {name: tensor.to(like) for name, tensor in weights.items()}
    found["consumer_weight"].requires_grad_()
    return found


def _squared(gradient: Tensor) -> float:
    return float(gradient.double().square().sum())
