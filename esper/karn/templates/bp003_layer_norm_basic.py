"""BP003 layer_norm_basic: s = gain * (h - mean) / sqrt(variance + epsilon) + shift, over the features of each place.

Not residual: it replaces the activation, so it is blended as what it is. Source: Ba et al. 2016, arXiv:1607.06450.
"""

from __future__ import annotations

from torch import Tensor

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import norm


class Norm(SeedModule):
    """LayerNorm over the features of each vector, token or pixel."""

    def __init__(self, site: SiteShape, epsilon: float) -> None:
        super().__init__()
        self.norm = norm(site.kind, site.features, epsilon)

    def forward(self, h: Tensor) -> Tensor:
        """The normalised activation; same shape."""
        out: Tensor = self.norm(h)
        return out


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Norm(site, settings["epsilon"])


BLUEPRINT = Blueprint(
    blueprint_id="BP003",
    name="layer_norm_basic",
    stage=0,
    risk=0.1,
    settings=(Setting("epsilon", 1e-6, 1e-3, default=1e-5),),
    tags=("norm",),
    make=make,
    description="LayerNorm over features",
)
