"""BP030 graph_attention: s = h + W gelu(x_hops), x_0 = norm(h), `hops` rounds of attention along a graph's edges.

x'_i = sum_j softmax_j(a . leaky_relu(A x_i + B x_j)) B x_j over i itself and its neighbours j. The graph is the grid of
an image's pixels with their eight neighbours, or the chain of tokens with the two before each; so after n rounds a
place knows of those n edges away. A vector has no edges. W starts at zero. Source: Veličković et al. 2018,
arXiv:1710.10903, equations 1 to 4, scored as in Brody et al. 2022 (GATv2), arXiv:2105.14491, equation 7.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, ShapeKind, SiteShape
from esper.karn.layers import norm, pointwise, zero_pointwise
from esper.karn.places import earlier

IMAGE_WINDOW = 3
TOKEN_WINDOW = 3
SLOPE = 0.2


class GraphAttention(nn.Module):
    """One round: each node becomes a weighted mean of itself and its neighbours; same shape."""

    def __init__(self, site: SiteShape) -> None:
        super().__init__()
        self.kind: ShapeKind = site.kind
        self.receive = pointwise(site.kind, site.features, site.features)
        self.send = pointwise(site.kind, site.features, site.features)
        self.score = nn.Linear(site.features, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) or (B, T, F)."""
        receiver, sender = self.receive(x), self.send(x)
        around = _around(self.kind, sender)  # (B, P, F, N): what the N neighbours of each node send
        exists = _around(self.kind, torch.ones_like(sender[:1]))[:, :, 0]
        node = receiver.flatten(2).transpose(1, 2) if self.kind == "image" else receiver
        agreed = functional.leaky_relu(node.unsqueeze(-1) + around, SLOPE)
        scores = self.score(agreed.transpose(-1, -2)).squeeze(-1).masked_fill(exists == 0, -math.inf)
        mixed = (around * torch.softmax(scores, dim=-1).unsqueeze(2)).sum(dim=-1)
        return mixed.transpose(1, 2).reshape(x.shape) if self.kind == "image" else mixed


def _around(kind: ShapeKind, x: Tensor) -> Tensor:
    """The neighbourhood of each node, (B, P, F, N), zeros where the graph ends."""
    if kind == "token":
        return earlier(x, TOKEN_WINDOW)
    near = functional.unfold(x, IMAGE_WINDOW, padding=IMAGE_WINDOW // 2)
    return torch.unflatten(near, 1, (x.shape[1], -1)).permute(0, 3, 1, 2)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    rounds = [layer for _ in range(int(settings["hops"])) for layer in (GraphAttention(site), nn.GELU())]
    features = site.features
    return Residual(nn.Sequential(norm(site.kind, features), *rounds, zero_pointwise(site.kind, features, features)))


BLUEPRINT = Blueprint(
    blueprint_id="BP030",
    name="graph_attention",
    stage=4,
    risk=0.5,
    kinds=("image", "token"),
    settings=(Setting("hops", 1, 3, default=1, integer=True),),
    tags=("attention", "graph"),
    make=make,
    description="h + W of attention among neighbours",
)
