"""BP004 dropout_light: s = h * m / (1 - dropout), m zero with probability `dropout` while training; s = h otherwise.

Features are dropped one by one in vectors and tokens, whole channels in images, because neighbouring pixels say nearly
the same. No parameters and not residual: it changes what the next layer sees from the first step on.
Source: Srivastava et al. 2014, JMLR 15, section 4; whole channels: Tompson et al. 2015, arXiv:1411.4280, section 3.2.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape


class Dropout(SeedModule):
    """The activation with a share of it switched off; draws from the stream that is current when it runs."""

    def __init__(self, site: SiteShape, dropout: float) -> None:
        super().__init__()
        self.image = site.kind == "image"
        self.dropout = dropout

    def forward(self, h: Tensor) -> Tensor:
        """What is left, scaled so that its mean stays; same shape."""
        drop = functional.dropout2d if self.image else functional.dropout
        return drop(h, self.dropout, training=self.training)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Dropout(site, settings["dropout"])


BLUEPRINT = Blueprint(
    blueprint_id="BP004",
    name="dropout_light",
    stage=0,
    risk=0.2,
    settings=(Setting("dropout", 0.0, 0.4, default=0.1),),
    tags=("regulariser",),
    make=make,
    description="dropout while training",
)
