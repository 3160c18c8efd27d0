"""BP034 non_local_block: s = h + W y, y_i = 1/N sum_j (theta(n_i) . phi(n_j)) g(n_j), n = norm(h), W starting at zero.

The dot-product form, in half the features: no softmax, so a place may also subtract what it sees. Over an image the N
places j are the largest values in at most `window` by `window` regions (the paper's subsampling); over tokens the
`window` tokens up to i. A vector has one place. Source: Wang et al. 2018, arXiv:1711.07971, equations 1, 4 and 6.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, ShapeKind, SiteShape
from esper.karn.layers import ZeroLinear
from esper.karn.places import from_places, to_places


class NonLocal(nn.Module):
    """The branch over pixels or tokens; same shape."""

    def __init__(self, site: SiteShape, window: int) -> None:
        super().__init__()
        inner = max(1, site.features // 2)
        self.kind: ShapeKind = site.kind
        self.window = window
        self.norm = nn.LayerNorm(site.features)
        self.theta = nn.Linear(site.features, inner)
        self.phi = nn.Linear(site.features, inner)
        self.g = nn.Linear(site.features, inner)
        self.project = ZeroLinear(inner, site.features)

    def forward(self, h: Tensor) -> Tensor:
        """What each place makes of those that it compares itself with."""
        places = self.norm(to_places(self.kind, h))
        others = places if self.kind == "token" else self.norm(to_places("image", self._regions(h)))
        likeness = self.theta(places) @ self.phi(others).transpose(1, 2)
        seen = self.project((likeness * self._share(likeness)) @ self.g(others))
        return from_places(self.kind, seen, h)

    def _regions(self, h: Tensor) -> Tensor:
        return functional.adaptive_max_pool2d(h, (min(self.window, h.shape[2]), min(self.window, h.shape[3])))

    def _share(self, likeness: Tensor) -> Tensor:
        """1 / N for every pair that counts, 0 for the others; shape (P, N)."""
        counts = torch.ones_like(likeness[0])
        if self.kind == "token":
            counts = counts.tril().triu(1 - self.window)
        return counts / counts.sum(dim=-1, keepdim=True)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(NonLocal(site, int(settings["window"])))


BLUEPRINT = Blueprint(
    blueprint_id="BP034",
    name="non_local_block",
    stage=4,
    risk=0.5,
    kinds=("image", "token"),
    settings=(Setting("window", 4, 16, default=8, integer=True),),
    tags=("attention", "spatial"),
    make=make,
    description="h + W of pairwise products with other places",
)
