"""BP025 dynamic_conv: s = h + W gelu((sum_k pi_k(h) D_k) h), kernels D_k mixed for each input; W is zero at first.

There are `experts` kernels; pi = softmax of a linear map of the squeezed activation. D_k has one filter per channel,
3x3 pixels or three tokens; over a vector it is a full linear map, the paper's dynamic perceptron. The outputs of the
kernels are mixed instead of the kernels: the same, because convolution is linear, and no kernel per sample has to be
made. Source: Chen et al. 2020, arXiv:1912.03458, equations 1 and 2; per token, Wu et al. 2019, arXiv:1901.10430,
section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, ShapeKind, SiteShape
from esper.karn.layers import local, pointwise, zero_pointwise
from esper.karn.places import squeeze

KERNEL = 3


class DynamicConv(nn.Module):
    """The branch: all kernels, mixed by weights that the input decides."""

    def __init__(self, site: SiteShape, experts: int) -> None:
        super().__init__()
        features = site.features
        self.kind: ShapeKind = site.kind
        self.features_axis = 1 if site.kind == "image" else -1
        self.experts = experts
        self.route = pointwise(site.kind, features, experts)
        self.kernels = (
            nn.Linear(features, features * experts)
            if site.kind == "vector"
            else local(site.kind, features, features * experts, KERNEL, groups=features)
        )
        self.project = zero_pointwise(site.kind, features, features)

    def forward(self, h: Tensor) -> Tensor:
        """What the mixed kernel adds; same shape."""
        weights = torch.softmax(self.route(squeeze(self.kind, h)), dim=self.features_axis)
        each = self.kernels(h).unflatten(self.features_axis, (-1, self.experts))
        after_features = 2 if self.kind == "image" else -1
        mixed = (each * weights.unsqueeze(1 if self.kind == "image" else -2)).sum(dim=after_features)
        out: Tensor = self.project(functional.gelu(mixed))
        return out


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(DynamicConv(site, int(settings["experts"])))


BLUEPRINT = Blueprint(
    blueprint_id="BP025",
    name="dynamic_conv",
    stage=3,
    risk=0.5,
    settings=(Setting("experts", 2, 8, default=2, integer=True),),
    tags=("conv", "dynamic"),
    make=make,
    description="h + W gelu(D(h) h), D mixed for each input",
)
