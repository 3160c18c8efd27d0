"""BP011 gelu_activation: s = h * Phi(h), Phi the normal distribution function. No parameters and not residual.

Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from esper.karn.blueprint import Blueprint, SeedModule, Settings, SiteShape


class Gelu(SeedModule):
    """The activation, gated by its own size."""

    def forward(self, h: Tensor) -> Tensor:
        """Elementwise; same shape."""
        return functional.gelu(h)


def make(_site: SiteShape, _settings: Settings) -> SeedModule:
    """The module for one site."""
    return Gelu()


BLUEPRINT = Blueprint(
    blueprint_id="BP011",
    name="gelu_activation",
    stage=1,
    risk=0.2,
    tags=("activation",),
    make=make,
    description="h * Phi(h)",
)
