"""BP035 learned_positional: s = h + W [sin(r . p), cos(r . p)], p the place's row and column or its token's number.

Eight rates r for each axis are learned; they start at `frequency` radians a place, each half the one before. W starts
at zero. A vector has no places. Source: Li et al. 2021 (learnable Fourier features), arXiv:2106.02795, equation 2;
rates that start in a geometric series: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, ShapeKind, SiteShape
from esper.karn.layers import OwnStart, ZeroLinear
from esper.karn.places import from_places

RATES = 8


class Positions(OwnStart):
    """The branch: says to each place where it is, and nothing about what is there."""

    def __init__(self, site: SiteShape, frequency: float) -> None:
        super().__init__()
        axes = 2 if site.kind == "image" else 1
        self.kind: ShapeKind = site.kind
        self.frequency = frequency
        self.rates = nn.Parameter(torch.empty(axes, RATES))
        self.project = ZeroLinear(2 * axes * RATES, site.features)

    def start(self, generator: torch.Generator) -> None:  # noqa: ARG002  (nothing here is drawn)
        """The geometric series on every axis."""
        halvings = torch.arange(RATES, dtype=self.rates.dtype)
        self.rates.copy_((self.frequency * 0.5**halvings).expand_as(self.rates))

    def forward(self, h: Tensor) -> Tensor:
        """The same for every sample; same shape as the activation."""
        places = self._places(h)
        phases = (places.unsqueeze(-1) * self.rates).flatten(1)
        said = self.project(torch.cat([phases.sin(), phases.cos()], dim=-1))
        return from_places(self.kind, said.expand(h.shape[0], -1, -1), h)

    def _places(self, h: Tensor) -> Tensor:
        """(P, axes), in pixels or tokens."""
        sizes = h.shape[2:] if self.kind == "image" else h.shape[1:2]
        axes = [torch.arange(size, device=h.device, dtype=h.dtype) for size in sizes]
        return torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1).flatten(0, -2)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(Positions(site, settings["frequency"]))


BLUEPRINT = Blueprint(
    blueprint_id="BP035",
    name="learned_positional",
    stage=4,
    risk=0.5,
    kinds=("image", "token"),
    settings=(Setting("frequency", 0.1, 1.0, default=1.0),),
    tags=("positional",),
    make=make,
    description="h + W [sin, cos] of the place",
)
