"""BP021 feedforward_gated: s = h + W (gelu(A n) * B n), n = norm(h), W starting at zero (GEGLU).

`hidden_multiple` is the inner width in multiples of the features, rounded to a whole number of them.
Source: Shazeer 2020, arXiv:2002.05202.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import norm, pointwise, zero_pointwise


class GatedFeedforward(nn.Module):
    """The branch: two maps of the normalised activation, one gating the other."""

    def __init__(self, site: SiteShape, hidden: int) -> None:
        super().__init__()
        self.norm = norm(site.kind, site.features)
        self.gate = pointwise(site.kind, site.features, hidden)
        self.value = pointwise(site.kind, site.features, hidden)
        self.project = zero_pointwise(site.kind, hidden, site.features)

    def forward(self, h: Tensor) -> Tensor:
        """What the branch adds; same shape."""
        n = self.norm(h)
        out: Tensor = self.project(functional.gelu(self.gate(n)) * self.value(n))
        return out


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(GatedFeedforward(site, round(settings["hidden_multiple"] * site.features)))


BLUEPRINT = Blueprint(
    blueprint_id="BP021",
    name="feedforward_gated",
    stage=2,
    risk=0.5,
    settings=(Setting("hidden_multiple", 2.0, 6.0, default=2.0),),
    tags=("mlp",),
    make=make,
    description="h + W (gelu(A n) * B n)",
)
