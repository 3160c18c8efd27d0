"""BP016 squeeze_excitation: s = h * 2 sigmoid(W2 silu(W1 squeeze(h))), W2 starting at zero: every factor starts at one.

Squeeze: the mean over an image's pixels; over tokens the mean of all tokens so far; a vector is its own squeeze. W1
narrows `reduction` times, to one feature at least. SiLU instead of the paper's ReLU, as EfficientNet has it: a single
narrow feature must not be dead from the start.
Source: Hu et al. 2018, arXiv:1709.01507; Tan and Le 2019, arXiv:1905.11946.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, ShapeKind, SiteShape
from esper.karn.layers import pointwise, zero_pointwise
from esper.karn.places import squeeze


class SqueezeExcitation(SeedModule):
    """Each feature times a factor between 0 and 2 that the squeezed activation decides."""

    residual = True

    def __init__(self, site: SiteShape, reduction: int) -> None:
        super().__init__()
        self.kind: ShapeKind = site.kind
        narrow = max(1, site.features // reduction)
        self.excite = nn.Sequential(
            pointwise(site.kind, site.features, narrow),
            nn.SiLU(),
            zero_pointwise(site.kind, narrow, site.features),
        )

    def forward(self, h: Tensor) -> Tensor:
        """The rescaled activation; same shape."""
        factor: Tensor = 2.0 * torch.sigmoid(self.excite(squeeze(self.kind, h)))
        return h * factor


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return SqueezeExcitation(site, int(settings["reduction"]))


BLUEPRINT = Blueprint(
    blueprint_id="BP016",
    name="squeeze_excitation",
    stage=2,
    risk=0.4,
    settings=(Setting("reduction", 4, 16, default=4, integer=True),),
    tags=("attention", "channel"),
    make=make,
    description="h * 2 sigmoid(W2 silu(W1 squeeze(h)))",
)
