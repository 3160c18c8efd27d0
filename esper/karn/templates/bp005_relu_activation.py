"""BP005 relu_activation: s = max(h, 0). No parameters and not residual. Source: Nair and Hinton 2010."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from esper.karn.blueprint import Blueprint, SeedModule, Settings, SiteShape


class Relu(SeedModule):
    """The positive part."""

    def forward(self, h: Tensor) -> Tensor:
        """Elementwise; same shape."""
        return functional.relu(h)


def make(_site: SiteShape, _settings: Settings) -> SeedModule:
    """The module for one site."""
    return Relu()


BLUEPRINT = Blueprint(
    blueprint_id="BP005",
    name="relu_activation",
    stage=0,
    risk=0.1,
    tags=("activation",),
    make=make,
    description="max(h, 0)",
)
