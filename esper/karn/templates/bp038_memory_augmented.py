"""BP038 memory_augmented: s = h + W r, r = sum_m w_m v_m, w = softmax(beta * cos(q(n), k_m)), n = norm(h).

W starts at zero. Each place reads, by content, from `memory_slots` learned slots with a key and a value each; beta = 1
+ softplus(b(n)) says how sharply. The memory is written by the gradient: what should be found there is learned, not
stored step by step. Source: addressing, Graves et al. 2014 (Neural Turing Machines), arXiv:1410.5401, equations 5 and
6; learned slots, Lample et al. 2019, arXiv:1907.05242, section 3.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, ShapeKind, SiteShape
from esper.karn.layers import Table, ZeroLinear
from esper.karn.places import from_places, to_places


class Memory(nn.Module):
    """The branch: a soft look-up for each place."""

    def __init__(self, site: SiteShape, slots: int) -> None:
        super().__init__()
        features = site.features
        self.kind: ShapeKind = site.kind
        self.norm = nn.LayerNorm(features)
        self.query = nn.Linear(features, features)
        self.sharpness = nn.Linear(features, 1)
        self.keys = Table(slots, features, bound=1.0 / math.sqrt(features))
        self.values = Table(slots, features, bound=1.0)
        self.project = ZeroLinear(features, features)

    def forward(self, h: Tensor) -> Tensor:
        """What each place reads; same shape."""
        places = self.norm(to_places(self.kind, h))
        query = functional.normalize(self.query(places), dim=-1)
        keys = functional.normalize(self.keys(), dim=-1)
        beta = 1.0 + functional.softplus(self.sharpness(places))
        weights = torch.softmax(beta * (query @ keys.t()), dim=-1)
        return from_places(self.kind, self.project(weights @ self.values()), h)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(Memory(site, int(settings["memory_slots"])))


BLUEPRINT = Blueprint(
    blueprint_id="BP038",
    name="memory_augmented",
    stage=5,
    risk=0.8,
    tier="experimental",
    settings=(Setting("memory_slots", 32, 128, default=32, integer=True),),
    tags=("memory",),
    make=make,
    description="h + W of a look-up by content",
)
