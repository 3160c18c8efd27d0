"""BP012 layer_scaling: s = h * (1 + scale * gamma), one gamma per feature, starting at zero.

The diagonal of Touvron et al. 2021 (LayerScale, arXiv:2103.17239), written around one so that it begins as the
identity; `scale` says how strongly a step of gamma acts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape


class Scaling(SeedModule):
    """Each feature times its own factor."""

    residual = True

    def __init__(self, site: SiteShape, scale: float) -> None:
        super().__init__()
        self.scale = scale
        trailing = (1, 1) if site.kind == "image" else ()
        self.gamma = nn.Parameter(torch.empty((site.features, *trailing)))

    def forward(self, h: Tensor) -> Tensor:
        """The scaled activation; same shape."""
        return h * (1.0 + self.scale * self.gamma)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Scaling(site, settings["scale"])


BLUEPRINT = Blueprint(
    blueprint_id="BP012",
    name="layer_scaling",
    stage=1,
    risk=0.3,
    settings=(Setting("scale", 0.8, 1.2, default=1.0),),
    tags=("scaling",),
    make=make,
    description="h * (1 + scale * gamma)",
)
