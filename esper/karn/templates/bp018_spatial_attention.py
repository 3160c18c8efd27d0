"""BP018 spatial_attention: s = h * 2 sigmoid(K [mean over channels, max over channels]), K starting at zero.

K looks `radius` pixels around each pixel, or at a token and the 2 * `radius` before it. A vector has no places.
Source: Woo et al. 2018 (CBAM), arXiv:1807.06521, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import ZeroConv2d


class SpatialAttention(SeedModule):
    """Each place times a factor between 0 and 2 that its neighbourhood decides."""

    residual = True

    def __init__(self, site: SiteShape, radius: int) -> None:
        super().__init__()
        self.image = site.kind == "image"
        reach = 2 * radius + 1
        self.margin = (radius, radius, radius, radius) if self.image else (0, 0, 2 * radius, 0)
        self.look: nn.Conv2d = ZeroConv2d(2, 1, (reach, reach) if self.image else (reach, 1))

    def forward(self, h: Tensor) -> Tensor:
        """The rescaled activation; same shape. Tokens are treated as an image one pixel wide."""
        features = h if self.image else h.transpose(1, 2).unsqueeze(-1)
        summary = torch.cat([features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)], dim=1)
        factor = 2.0 * torch.sigmoid(self.look(functional.pad(summary, self.margin)))
        return h * (factor if self.image else factor.flatten(2).transpose(1, 2))


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return SpatialAttention(site, int(settings["radius"]))


BLUEPRINT = Blueprint(
    blueprint_id="BP018",
    name="spatial_attention",
    stage=2,
    risk=0.4,
    kinds=("image", "token"),
    settings=(Setting("radius", 1, 3, default=1, integer=True),),
    tags=("attention", "spatial"),
    make=make,
    description="h * 2 sigmoid(K [mean, max over channels])",
)
