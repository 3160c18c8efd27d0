"""Convolutions: grouped, depthwise, dilated, temporal, dynamic, a feature pyramid, deformable.

Over tokens all are causal. Each ends in a projection that starts at zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Settings, ShapeKind, SiteShape
from esper.karn.layers import (
    CausalConv,
    Residual,
    SeedModule,
    ZeroConv2d,
    ZeroLinear,
    divisor,
    local,
    pointwise,
    squeeze,
    zero_pointwise,
)

KERNEL = 3


def grouped_conv(site: SiteShape, settings: Settings) -> SeedModule:
    """BP013: s = h + W gelu(G h), G a convolution by groups, W starting at zero.

    G is 3x3 over an image, three tokens long over tokens, and a block-diagonal map over a vector. `groups` is how many
    at most: the largest number up to it that divides the features is used.
    Source: Xie et al. 2017 (ResNeXt), arXiv:1611.05431.
    """
    features = site.features
    groups = divisor(features, int(settings["groups"]))
    return Residual(
        nn.Sequential(
            local(site.kind, features, features, KERNEL, groups=groups),
            nn.GELU(),
            zero_pointwise(site.kind, features, features),
        )
    )


def depthwise_separable(site: SiteShape, settings: Settings) -> SeedModule:
    """BP015: s = h + W gelu(D h), D one filter per channel, W starting at zero.

    A filter sees `kernel` x `kernel` pixels, or `kernel` tokens up to its own. A vector has no neighbours, so it is not
    served. Source: Howard et al. 2017 (MobileNets), arXiv:1704.04861.
    """
    features = site.features
    return Residual(
        nn.Sequential(
            local(site.kind, features, features, int(settings["kernel"]), groups=features),
            nn.GELU(),
            zero_pointwise(site.kind, features, features),
        )
    )


def dilated_conv(site: SiteShape, settings: Settings) -> SeedModule:
    """BP032: s = h + W gelu(D h), D a convolution whose taps lie `dilation` apart, W starting at zero.

    3x3 pixels, or three tokens up to its own. A vector has no neighbours.
    Source: Yu and Koltun 2016, arXiv:1511.07122, equation 2.
    """
    features = site.features
    return Residual(
        nn.Sequential(
            local(site.kind, features, features, KERNEL, dilation=int(settings["dilation"])),
            nn.GELU(),
            zero_pointwise(site.kind, features, features),
        )
    )


def temporal_conv(site: SiteShape, settings: Settings) -> SeedModule:
    """BP031: s = h + W gelu(C2 gelu(C1 norm(h))), two causal convolutions along time; W starts at zero.

    C1 sees three tokens `dilation` apart, C2 three tokens twice as far apart. Images and vectors have no time.
    Source: Bai et al. 2018 (TCN), arXiv:1803.01271, sections 3.1 to 3.3.
    """
    features, dilation = site.features, int(settings["dilation"])
    return Residual(
        nn.Sequential(
            nn.LayerNorm(features),
            CausalConv(features, features, KERNEL, dilation=dilation),
            nn.GELU(),
            CausalConv(features, features, KERNEL, dilation=2 * dilation),
            nn.GELU(),
            ZeroLinear(features, features),
        )
    )


def dynamic_conv(site: SiteShape, settings: Settings) -> SeedModule:
    """BP025: s = h + W gelu((sum_k pi_k(h) D_k) h), kernels D_k mixed for each input; W is zero at first.

    There are `experts` kernels; pi = softmax of a linear map of the squeezed activation. D_k has one filter per
    channel, 3x3 pixels or three tokens; over a vector it is a full linear map, the paper's dynamic perceptron. The
    outputs of the kernels are mixed instead of the kernels: the same, because convolution is linear, and no kernel per
    sample has to be made. Source: Chen et al. 2020, arXiv:1912.03458, equations 1 and 2; per token, Wu et al. 2019,
    arXiv:1901.10430, section 3.
    """
    return Residual(DynamicConv(site, int(settings["experts"])))


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


def feature_pyramid(site: SiteShape, settings: Settings) -> SeedModule:
    """BP027: s = h + W smooth(p_1), p_i = lateral_i(c_i) + up(p_(i+1)), W starting at zero.

    Bottom-up, c_1 = h and c_(i+1) = gelu(step_i(c_i)): over an image a 3x3 convolution that halves height and width,
    with nearest-neighbour `up`; over tokens a causal convolution of two tokens that lie 2^(i-1) apart, so that the
    reach doubles at each level while the length stays and `up` is nothing (the à trous form). A vector has no scales.
    Source: Lin et al. 2017 (FPN), arXiv:1612.03144, section 3; à trous: Yu and Koltun 2016, arXiv:1511.07122.
    """
    return Residual(Pyramid(site, int(settings["levels"])))


class Pyramid(nn.Module):
    """The branch: up the levels, down again with what the coarser ones saw, smoothed and projected."""

    def __init__(self, site: SiteShape, levels: int) -> None:
        super().__init__()
        features = site.features
        self.steps = nn.ModuleList(_pyramid_step(site, level) for level in range(levels - 1))
        self.laterals = nn.ModuleList(pointwise(site.kind, features, features) for _ in range(levels))
        self.smooth = local(site.kind, features, features, 3)
        self.project = zero_pointwise(site.kind, features, features)

    def forward(self, h: Tensor) -> Tensor:
        """What the pyramid adds at the finest level; same shape."""
        levels = [h]
        for step in self.steps:
            levels.append(functional.gelu(step(levels[-1])))
        laterals = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        seen = laterals.pop()
        while laterals:
            finer = laterals.pop()
            coarser = functional.interpolate(seen, size=finer.shape[2:]) if h.dim() == 4 else seen
            seen = finer + coarser
        out: Tensor = self.project(functional.gelu(self.smooth(seen)))
        return out


def _pyramid_step(site: SiteShape, level: int) -> nn.Module:
    if site.kind == "image":
        return nn.Conv2d(site.features, site.features, 3, stride=2, padding=1)
    return CausalConv(site.features, site.features, 2, dilation=2**level)


def deformable_conv(site: SiteShape, settings: Settings) -> SeedModule:
    """BP033: s = h + W gelu(y), y(p) = sum_k D_k h(p + p_k + offset_k(p)), W and the offsets start at zero.

    Each of the 3x3 taps p_k looks where a learned offset moves it, and reads there by bilinear interpolation; beyond
    the border is zero. Over tokens the three taps lie back in time, move along it, and read by linear interpolation,
    never from after their token. Each of `offset_groups` groups of channels has offsets of its own (the largest number
    up to it that divides the channels). A vector has no places. Source: Dai et al. 2017, arXiv:1703.06211, equations 2
    to 4.
    """
    features = site.features
    conv = DeformableConv2d if site.kind == "image" else DeformableConv1d
    groups = divisor(features, int(settings["offset_groups"]))
    return Residual(nn.Sequential(conv(features, groups), nn.GELU(), zero_pointwise(site.kind, features, features)))


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
        taps = (1 - share) * _read_tokens(grouped, before) + share * _read_tokens(grouped, after)
        out: Tensor = self.mix(taps.reshape(batch, tokens, KERNEL * features))
        return out


def _read_tokens(grouped: Tensor, place: Tensor) -> Tensor:
    """The tokens (B, T, G, F / G) at whole places (B, T, K, G): (B, T, K, G, F / G); zero before the first."""
    batch, tokens, taps, groups = place.shape
    index = place.clamp(0, tokens - 1).long().reshape(batch, tokens * taps, groups, 1)
    found = grouped.gather(1, index.expand(-1, -1, -1, grouped.shape[-1]))
    return found.view(batch, tokens, taps, groups, -1) * (place >= 0).unsqueeze(-1)
