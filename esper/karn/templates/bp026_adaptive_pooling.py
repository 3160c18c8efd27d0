"""BP026 adaptive_pooling: s = h + W gelu(norm(up(pool(h)))), W starting at zero: each place learns of its region.

An image is averaged down to at most `output_size` by `output_size` regions and drawn up again bilinearly. Tokens are
cut into at most `output_size` segments of nearly equal length, and each token gets the mean of its segment up to
itself. A vector has no regions. Source: Zhao et al. 2017 (pyramid pooling), arXiv:1612.01105, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import norm, zero_pointwise


class RegionMean(nn.Module):
    """Pixels (B, C, H, W) replaced by what their regions are on average; same shape."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        """Averaged and interpolated; the activation itself where it has no more pixels than regions."""
        height, width = h.shape[2:]
        regions = functional.adaptive_avg_pool2d(h, (min(self.size, height), min(self.size, width)))
        return functional.interpolate(regions, size=(height, width), mode="bilinear", align_corners=False)


class SegmentMean(nn.Module):
    """Tokens (B, T, F) replaced by the mean of their segment up to themselves; same shape."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        """A difference of cumulative sums, so that no token sees a later one."""
        tokens = h.shape[1]
        segments = min(self.size, tokens)
        index = torch.arange(tokens, device=h.device)
        segment = index * segments // tokens
        start = (segment * tokens + segments - 1) // segments
        sums = functional.pad(h.cumsum(dim=1), (0, 0, 1, 0))
        count = (index - start + 1).to(h.dtype).unsqueeze(-1)
        return (sums[:, 1:] - sums[:, start]) / count


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    size = int(settings["output_size"])
    pool = RegionMean(size) if site.kind == "image" else SegmentMean(size)
    features = site.features
    return Residual(
        nn.Sequential(pool, norm(site.kind, features), nn.GELU(), zero_pointwise(site.kind, features, features))
    )


BLUEPRINT = Blueprint(
    blueprint_id="BP026",
    name="adaptive_pooling",
    stage=3,
    risk=0.5,
    kinds=("image", "token"),
    settings=(Setting("output_size", 4, 16, default=4, integer=True),),
    tags=("pooling",),
    make=make,
    description="h + W gelu(norm(mean of the region))",
)
