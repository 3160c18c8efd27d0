"""BP044 vanishing_gradient (stressor): s = h + W h, but its gradient is multiplied by `decay` in each of six layers.

Neither the seed nor anything below it in the network learns through it: ds/dh = decay^6, at most a millionth. Forward
it looks harmless. Bound: it is only ever smaller than a gradient should be. Source: Pascanu et al. 2013,
arXiv:1211.5063, section 2.1.
"""

from __future__ import annotations

from torch import Tensor

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.stressors import Carrier, scale_gradient

LAYERS = 6


class VanishingGradient(Carrier):
    """A harmless answer with a gradient that dies on the way back."""

    def __init__(self, site: SiteShape, decay: float) -> None:
        super().__init__(site)
        self.decay = decay

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer; same shape."""
        s = self.carry(h)
        for _ in range(LAYERS):
            s = scale_gradient(s, self.decay)
        return s


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return VanishingGradient(site, settings["decay"])


BLUEPRINT = Blueprint(
    blueprint_id="BP044",
    name="vanishing_gradient",
    stage=6,
    risk=0.9,
    tier="high_risk",
    settings=(Setting("decay", 0.0, 0.1, default=0.05),),
    tags=("stressor", "gradient"),
    make=make,
    description="gradient times decay^6",
)
