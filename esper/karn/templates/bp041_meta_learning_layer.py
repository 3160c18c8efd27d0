"""BP041 meta_learning_layer: s = h + W (A_n q), where a small layer A learns from the sample itself; W starts at zero.

Key, value and query are linear maps of norm(h). The fast weights start at the learned A_0 and take `adapt_steps` steps
of gradient descent on the mean over places of 1/2 |A k - v|^2: A_(n+1) = A_n - rate * (A_n mean(k k^T) - mean(v k^T)),
with keys of length one and a learned rate in (0, 1), so that it cannot diverge. Places are an image's pixels, a token
and all before it, or the one vector. The outer training learns through the inner steps, where they start and how far
they go. Source: Finn et al. 2017 (MAML), arXiv:1703.03400, equation 1; a layer that does it, Sun et al. 2024 (TTT),
arXiv:2407.04620, section 2; fast weights: Ba et al. 2016, arXiv:1610.06258.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, ShapeKind, SiteShape
from esper.karn.layers import Table, ZeroLinear
from esper.karn.places import from_places, running_mean, to_places

WIDTH = 16


class FastWeights(nn.Module):
    """The branch; axes: B batch, P places, D width of the fast layer."""

    def __init__(self, site: SiteShape, steps: int) -> None:
        super().__init__()
        width = min(WIDTH, site.features)
        self.kind: ShapeKind = site.kind
        self.steps = steps
        self.norm = nn.LayerNorm(site.features)
        self.query_key_value = nn.Linear(site.features, 3 * width)
        self.first = Table(width, width, bound=1.0 / math.sqrt(width))
        self.rate = nn.Parameter(torch.empty(1))  # before the sigmoid: starts at one half
        self.project = ZeroLinear(width, site.features)

    def forward(self, h: Tensor) -> Tensor:
        """What the adapted layer says at each place; same shape."""
        places = to_places(self.kind, h)
        query, key, value = self.query_key_value(self.norm(places)).chunk(3, dim=-1)
        key = functional.normalize(key, dim=-1)
        fast = self._adapted(self._mean_product(key, key), self._mean_product(value, key))
        said = (fast @ query.unsqueeze(-1)).squeeze(-1)
        return from_places(self.kind, self.project(said), h)

    def _adapted(self, of_keys: Tensor, of_both: Tensor) -> Tensor:
        """The fast weights after all steps; (B, P or 1, D, D)."""
        rate = torch.sigmoid(self.rate)
        fast: Tensor = self.first().expand_as(of_keys)
        for _ in range(self.steps):
            fast = fast - rate * (fast @ of_keys - of_both)
        return fast

    def _mean_product(self, left: Tensor, right: Tensor) -> Tensor:
        """The mean of left right^T over the places that count for each place; (B, P or 1, D, D)."""
        if self.kind == "image":
            mean: Tensor = left.transpose(1, 2) @ right / left.shape[1]
            return mean.unsqueeze(1)
        return running_mean(left.unsqueeze(-1) * right.unsqueeze(-2))


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(FastWeights(site, int(settings["adapt_steps"])))


BLUEPRINT = Blueprint(
    blueprint_id="BP041",
    name="meta_learning_layer",
    stage=5,
    risk=0.8,
    tier="experimental",
    settings=(Setting("adapt_steps", 1, 5, default=1, integer=True),),
    tags=("meta", "dynamic"),
    make=make,
    description="h + W of a layer that learns from the sample",
)
