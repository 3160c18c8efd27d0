"""BP007 pooling_max: s = the largest value in a window around each pixel, or in the `kernel` tokens up to each token.

Stride one, so the shape stays; beyond the border there is nothing that could be the largest. No parameters and not
residual. A vector has no neighbours. Source: Ranzato et al. 2007 (CVPR), section 3; LeCun et al. 1998, section II.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape


class MaxPool(SeedModule):
    """The largest of each neighbourhood."""

    def __init__(self, site: SiteShape, kernel: int) -> None:
        super().__init__()
        self.image = site.kind == "image"
        self.kernel = kernel

    def forward(self, h: Tensor) -> Tensor:
        """Same shape; an even window reaches one pixel further behind than before."""
        before, behind = (self.kernel - 1) // 2, self.kernel // 2
        if self.image:
            padded = functional.pad(h, (before, behind, before, behind), value=-math.inf)
            return functional.max_pool2d(padded, self.kernel, stride=1)
        padded = functional.pad(h.transpose(1, 2), (self.kernel - 1, 0), value=-math.inf)
        return functional.max_pool1d(padded, self.kernel, stride=1).transpose(1, 2)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return MaxPool(site, int(settings["kernel"]))


BLUEPRINT = Blueprint(
    blueprint_id="BP007",
    name="pooling_max",
    stage=0,
    risk=0.2,
    kinds=("image", "token"),
    settings=(Setting("kernel", 2, 5, default=2, integer=True),),
    tags=("pooling",),
    make=make,
    description="largest of each neighbourhood",
)
