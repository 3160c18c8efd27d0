"""BP033 deformable_conv: s = h + W gelu(y), y(p) = sum_k D_k h(p + p_k + offset_k(p)), W and the offsets start at zero.

Each of the 3x3 taps p_k looks where a learned offset moves it, and reads there by bilinear interpolation; beyond the
border is zero. Over tokens the three taps lie back in time, move along it, and read by linear interpolation, never from
after their token. Each of `offset_groups` groups of channels has offsets of its own (the largest number up to it that
divides the channels). A vector has no places. Source: Dai et al. 2017, arXiv:1703.06211, equations 2 to 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import ZeroConv2d, ZeroLinear, divisor, zero_pointwise

KERNEL = 3


class DeformableConv2d(nn.Module):
    """Over pixels (B, C, H, W); same shape."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.offsets = ZeroConv2d(channels, 2 * groups * KERNEL**2, KERNEL, padding=KERNEL // 2)
        self.mix = nn.Conv2d(channels * KERNEL**2, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Taps moved, read and weighted."""
        batch, _, height, width = h.shape
        moved = self._places(h)
        size = h.new_tensor([width, height])
        grid = (2.0 * moved + 1.0) / size - 1.0  # from pixels to grid_sample's -1 to 1 over the image's edges
        taps = functional.grid_sample(
            h.reshape(batch * self.groups, -1, height, width),
            grid.flatten(1, 2),
            padding_mode="zeros",
            align_corners=False,
        )
        by_channel = taps.reshape(batch, -1, height, width)
        out: Tensor = self.mix(by_channel)
        return out

    def _places(self, h: Tensor) -> Tensor:
        """Where each tap reads, in pixels, (B * groups, taps, H, W, 2) with x before y."""
        batch, _, height, width = h.shape
        rows = torch.arange(height, device=h.device, dtype=h.dtype)
        columns = torch.arange(width, device=h.device, dtype=h.dtype)
        reach = torch.arange(KERNEL, device=h.device, dtype=h.dtype) - KERNEL // 2
        y = (reach.view(-1, 1, 1, 1) + rows.view(1, 1, -1, 1)).expand(KERNEL, KERNEL, height, width)
        x = (reach.view(1, -1, 1, 1) + columns).expand(KERNEL, KERNEL, height, width)
        regular = torch.stack([x, y], dim=-1).flatten(0, 1)
        offsets: Tensor = self.offsets(h).reshape(batch * self.groups, KERNEL**2, 2, height, width)
        return regular + offsets.movedim(2, -1)


class DeformableConv1d(nn.Module):
    """Over tokens (B, T, F), causal; same shape."""

    def __init__(self, features: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.offsets = ZeroLinear(features, groups * KERNEL)
        self.mix = nn.Linear(features * KERNEL, features)

    def forward(self, h: Tensor) -> Tensor:
        """Taps moved, read and weighted."""
        batch, tokens, features = h.shape
        now = torch.arange(tokens, device=h.device, dtype=h.dtype).view(-1, 1, 1)
        back = torch.arange(KERNEL, device=h.device, dtype=h.dtype).view(-1, 1)
        offsets = self.offsets(h).view(batch, tokens, KERNEL, self.groups)
        place = torch.minimum(now - back + offsets, now)
        before = torch.nan_to_num(place.detach()).floor()
        share = (place - before).unsqueeze(-1)
        grouped = h.view(batch, tokens, self.groups, -1)
        after = torch.minimum(before + 1, now)
        taps = (1 - share) * _read(grouped, before) + share * _read(grouped, after)
        out: Tensor = self.mix(taps.reshape(batch, tokens, KERNEL * features))
        return out


def _read(grouped: Tensor, place: Tensor) -> Tensor:
    """The tokens (B, T, G, F / G) at whole places (B, T, K, G): (B, T, K, G, F / G); zero before the first."""
    batch, tokens, taps, groups = place.shape
    index = place.clamp(0, tokens - 1).long().reshape(batch, tokens * taps, groups, 1)
    found = grouped.gather(1, index.expand(-1, -1, -1, grouped.shape[-1]))
    return found.view(batch, tokens, taps, groups, -1) * (place >= 0).unsqueeze(-1)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    features = site.features
    conv = DeformableConv2d if site.kind == "image" else DeformableConv1d
    groups = divisor(features, int(settings["offset_groups"]))
    return Residual(nn.Sequential(conv(features, groups), nn.GELU(), zero_pointwise(site.kind, features, features)))


BLUEPRINT = Blueprint(
    blueprint_id="BP033",
    name="deformable_conv",
    stage=4,
    risk=0.5,
    kinds=("image", "token"),
    settings=(Setting("offset_groups", 1, 4, default=1, integer=True),),
    tags=("conv", "dynamic"),
    make=make,
    description="h + W gelu(convolution at learned places)",
)
