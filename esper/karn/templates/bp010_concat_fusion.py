"""BP010 concat_fusion: s = h + W [gelu(b1(h)), gelu(b2(h)), ...], `branches` views side by side, W starting at zero.

Branch i looks further than the one before it: 2i - 1 pixels across, i tokens back, or i layers deep over a vector. Each
gives F / branches features, rounded up. Source: Szegedy et al. 2015 (Inception), arXiv:1409.4842, section 4; with a way
around it: Szegedy et al. 2016, arXiv:1602.07261, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import local, pointwise, zero_pointwise


class Fusion(nn.Module):
    """The branches, concatenated over features and projected."""

    def __init__(self, site: SiteShape, branches: int) -> None:
        super().__init__()
        narrow = -(-site.features // branches)
        self.features_axis = 1 if site.kind == "image" else -1
        self.branches = nn.ModuleList(_branch(site, narrow, number) for number in range(1, branches + 1))
        self.project = zero_pointwise(site.kind, narrow * branches, site.features)

    def forward(self, h: Tensor) -> Tensor:
        """What the branches add together; same shape."""
        seen = torch.cat([branch(h) for branch in self.branches], dim=self.features_axis)
        out: Tensor = self.project(seen)
        return out


def _branch(site: SiteShape, narrow: int, number: int) -> nn.Module:
    layers: list[nn.Module] = [pointwise(site.kind, site.features, narrow), nn.GELU()]
    if site.kind == "vector":
        for _ in range(number - 1):
            layers += [pointwise("vector", narrow, narrow), nn.GELU()]
    elif number > 1:
        kernel = 2 * number - 1 if site.kind == "image" else number
        layers += [local(site.kind, narrow, narrow, kernel), nn.GELU()]
    return nn.Sequential(*layers)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(Fusion(site, int(settings["branches"])))


BLUEPRINT = Blueprint(
    blueprint_id="BP010",
    name="concat_fusion",
    stage=1,
    risk=0.3,
    settings=(Setting("branches", 2, 4, default=2, integer=True),),
    tags=("fusion",),
    make=make,
    description="h + W [branches of growing reach]",
)
