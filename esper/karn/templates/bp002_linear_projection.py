"""BP002 linear_projection: s = h + scale * (W h + b), W and b starting at zero; over an image a 1x1 convolution.

`scale` multiplies the step that the projection takes, the output scaling of Szegedy et al. 2016, arXiv:1602.07261, 3.3.
"""

from __future__ import annotations

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import Scaled, zero_pointwise


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(Scaled(zero_pointwise(site.kind, site.features, site.features), settings["scale"]))


BLUEPRINT = Blueprint(
    blueprint_id="BP002",
    name="linear_projection",
    stage=0,
    risk=0.1,
    settings=(Setting("scale", 0.5, 2.0, default=1.0),),
    tags=("linear",),
    make=make,
    description="h + scale * (W h + b)",
)
