"""BP028 dense_connection: s = h + W [x1, x2, x3], x_i = gelu(layer_i([h, x1, ..., x_(i-1)])), W starting at zero.

Every layer sees all that came before it and adds `growth_rate` features: a 3x3 convolution over an image, three tokens
long over tokens, a linear map over a vector. Source: Huang et al. 2017 (DenseNet), arXiv:1608.06993, equation 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import local, zero_pointwise

LAYERS = 3
KERNEL = 3


class Dense(nn.Module):
    """The branch: layers that each see everything before them."""

    def __init__(self, site: SiteShape, growth: int) -> None:
        super().__init__()
        self.features_axis = 1 if site.kind == "image" else -1
        self.layers = nn.ModuleList(
            local(site.kind, site.features + number * growth, growth, KERNEL) for number in range(LAYERS)
        )
        self.project = zero_pointwise(site.kind, LAYERS * growth, site.features)

    def forward(self, h: Tensor) -> Tensor:
        """What the new features add; same shape."""
        seen = [h]
        for layer in self.layers:
            seen.append(functional.gelu(layer(torch.cat(seen, dim=self.features_axis))))
        out: Tensor = self.project(torch.cat(seen[1:], dim=self.features_axis))
        return out


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(Dense(site, int(settings["growth_rate"])))


BLUEPRINT = Blueprint(
    blueprint_id="BP028",
    name="dense_connection",
    stage=3,
    risk=0.5,
    settings=(Setting("growth_rate", 8, 48, default=8, integer=True),),
    tags=("dense", "conv"),
    make=make,
    description="h + W of three densely connected layers",
)
