"""BP043 exploding_gradient (stressor): s = h + W h, but its gradient is multiplied by `scale` in each of six layers.

What a deep network whose layers all have gain `scale` does to its gradient: ds/dh = scale^6. Forward it looks harmless.
Bound: scale^6 is 15 625 to 64 000 000, the same in every step, so the gradient of an ordinary loss stays a finite
number. Source: Pascanu et al. 2013, arXiv:1211.5063, section 2.1.
"""

from __future__ import annotations

from torch import Tensor

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.stressors import Carrier, scale_gradient

LAYERS = 6


class ExplodingGradient(Carrier):
    """A harmless answer with a gradient that explodes on the way back."""

    def __init__(self, site: SiteShape, scale: float) -> None:
        super().__init__(site)
        self.scale = scale

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer; same shape."""
        s = self.carry(h)
        for _ in range(LAYERS):
            s = scale_gradient(s, self.scale)
        return s


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return ExplodingGradient(site, settings["scale"])


BLUEPRINT = Blueprint(
    blueprint_id="BP043",
    name="exploding_gradient",
    stage=6,
    risk=0.9,
    tier="high_risk",
    settings=(Setting("scale", 5.0, 20.0, default=10.0),),
    tags=("stressor", "gradient"),
    make=make,
    description="gradient times scale^6",
)
