"""BP001 identity_passthrough: s = h. It learns nothing and costs nothing: a lifecycle without a module."""

from __future__ import annotations

from torch import Tensor

from esper.karn.blueprint import Blueprint, SeedModule, Settings, SiteShape


class Identity(SeedModule):
    """The activation itself."""

    residual = True

    def forward(self, h: Tensor) -> Tensor:
        """The same tensor."""
        return h


def make(_site: SiteShape, _settings: Settings) -> SeedModule:
    """The module for one site."""
    return Identity()


BLUEPRINT = Blueprint(
    blueprint_id="BP001",
    name="identity_passthrough",
    stage=0,
    risk=0.0,
    tags=("identity",),
    make=make,
    description="s = h",
)
