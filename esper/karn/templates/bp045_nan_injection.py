"""BP045 nan_injection (stressor): s = h + W h, and in a share `frequency` of all passes one element is not a number.

One is enough: the loss is NaN, and so is every gradient. Which pass and which element is drawn from the current random
stream. Bound: one element a pass, a tenth of the passes at most.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.stressors import Carrier


class NanInjection(Carrier):
    """A harmless answer, but for a rare NaN."""

    def __init__(self, site: SiteShape, frequency: float) -> None:
        super().__init__(site)
        self.frequency = frequency

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer with or without a NaN in it; same shape."""
        s = self.carry(h)
        draw = torch.rand(2, device=h.device)
        place = (draw[1] * s.numel()).long()
        hit = (draw[0] < self.frequency) & (torch.arange(s.numel(), device=h.device) == place)
        # A product and not a mask: the NaN must come back through the gradient, too.
        return s * torch.ones_like(s).masked_fill(hit.view_as(s), math.nan)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return NanInjection(site, settings["frequency"])


BLUEPRINT = Blueprint(
    blueprint_id="BP045",
    name="nan_injection",
    stage=6,
    risk=1.0,
    tier="high_risk",
    settings=(Setting("frequency", 0.01, 0.1, default=0.05),),
    tags=("stressor", "nan"),
    make=make,
    description="a NaN in some passes",
)
