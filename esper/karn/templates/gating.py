"""Gating blueprints: the activation times learned factors, per feature, per channel or per place.

Every factor starts at one, or the gated branch at zero, so growth begins as the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Settings, ShapeKind, SiteShape
from esper.karn.layers import Residual, SeedModule, Table, ZeroConv2d, ZeroLinear, pointwise, squeeze, zero_pointwise

CHANNEL_WIDTH = 4


def layer_scaling(site: SiteShape, settings: Settings) -> SeedModule:
    """BP012: s = h * (1 + scale * gamma), one gamma per feature, starting at zero.

    The diagonal of Touvron et al. 2021 (LayerScale, arXiv:2103.17239), written around one so that it begins as the
    identity; `scale` says how strongly a step of gamma acts.
    """
    return Scaling(site, settings["scale"])


class Scaling(SeedModule):
    """Each feature times its own factor."""

    residual = True

    def __init__(self, site: SiteShape, scale: float) -> None:
        super().__init__()
        self.scale = scale
        trailing = (1, 1) if site.kind == "image" else ()
        self.gamma = nn.Parameter(torch.empty((site.features, *trailing)))

    def forward(self, h: Tensor) -> Tensor:
        """The scaled activation; same shape."""
        return h * (1.0 + self.scale * self.gamma)


def highway_gate(site: SiteShape, settings: Settings) -> SeedModule:
    """BP014: s = h + sigmoid(Wg h + bg + gate_bias) * (W2 gelu(W1 h)), W2 starting at zero.

    The highway y = T(h) H(h) + (1 - T(h)) h with H(h) = h + u(h), so that it begins as the identity. A negative
    `gate_bias` starts with the gate nearly shut. Source: Srivastava et al. 2015, arXiv:1505.00387 (which proposes -1 to
    -3).
    """
    return Residual(Gated(site, settings["gate_bias"]))


class Gated(nn.Module):
    """A transform behind a gate that is computed from the same activation."""

    def __init__(self, site: SiteShape, gate_bias: float) -> None:
        super().__init__()
        features = site.features
        self.gate_bias = gate_bias
        self.gate = pointwise(site.kind, features, features)
        self.transform = nn.Sequential(
            pointwise(site.kind, features, features),
            nn.GELU(),
            zero_pointwise(site.kind, features, features),
        )

    def forward(self, h: Tensor) -> Tensor:
        """What passes the gate; same shape."""
        passed: Tensor = torch.sigmoid(self.gate(h) + self.gate_bias) * self.transform(h)
        return passed


def squeeze_excitation(site: SiteShape, settings: Settings) -> SeedModule:
    """BP016: s = h * 2 sigmoid(W2 silu(W1 squeeze(h))), W2 starting at zero: every factor starts at one.

    Squeeze: the mean over an image's pixels; over tokens the mean of all tokens so far; a vector is its own squeeze. W1
    narrows `reduction` times, to one feature at least. SiLU instead of the paper's ReLU, as EfficientNet has it: a
    single narrow feature must not be dead from the start.
    Source: Hu et al. 2018, arXiv:1709.01507; Tan and Le 2019, arXiv:1905.11946.
    """
    return SqueezeExcitation(site, int(settings["reduction"]))


class SqueezeExcitation(SeedModule):
    """Each feature times a factor between 0 and 2 that the squeezed activation decides."""

    residual = True

    def __init__(self, site: SiteShape, reduction: int) -> None:
        super().__init__()
        self.kind: ShapeKind = site.kind
        narrow = max(1, site.features // reduction)
        self.excite = nn.Sequential(
            pointwise(site.kind, site.features, narrow),
            nn.SiLU(),
            zero_pointwise(site.kind, narrow, site.features),
        )

    def forward(self, h: Tensor) -> Tensor:
        """The rescaled activation; same shape."""
        factor: Tensor = 2.0 * torch.sigmoid(self.excite(squeeze(self.kind, h)))
        return h * factor


def channel_attention(site: SiteShape, settings: Settings) -> SeedModule:
    """BP017: s = h * 2 sigmoid(w . A(e)), channels attending to channels; w starts at zero.

    Channel c is a token of its own, e_c = identity_c + z_c * value_c, where z is the squeezed activation (the mean
    pixel, the mean of all tokens so far, or the vector itself). A is self-attention with `heads` heads of four features
    over these C tokens, softmax(Q K^T / 2) V. Factors start at one.
    Source: features as tokens, Song et al. 2019 (AutoInt), arXiv:1810.11921, equations 4 to 7; factors from squeezed
    channels, Woo et al. 2018 (CBAM), arXiv:1807.06521, section 3.1.
    """
    return ChannelAttention(site, int(settings["heads"]))


class ChannelAttention(SeedModule):
    """Each channel times a factor between 0 and 2 that it decides by looking at the others."""

    residual = True

    def __init__(self, site: SiteShape, heads: int) -> None:
        super().__init__()
        self.kind: ShapeKind = site.kind
        self.heads = heads
        inner = heads * CHANNEL_WIDTH
        self.identity = Table(site.features, inner, bound=1.0)
        self.value = Table(site.features, inner, bound=1.0)
        self.query_key_value = nn.Linear(inner, 3 * inner)
        self.score = ZeroLinear(inner, 1)

    def forward(self, h: Tensor) -> Tensor:
        """The rescaled activation; same shape."""
        summary = squeeze(self.kind, h)
        z = summary.flatten(1) if self.kind == "image" else summary
        tokens = self.identity() + z.unsqueeze(-1) * self.value()
        both = self.query_key_value(tokens).unflatten(-1, (3, self.heads, CHANNEL_WIDTH))
        query, key, value = both.movedim(-3, 0).transpose(-3, -2)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(-3, -2).flatten(-2)
        factor = 2.0 * torch.sigmoid(self.score(mixed).squeeze(-1))
        return h * factor.view_as(summary)


def spatial_attention(site: SiteShape, settings: Settings) -> SeedModule:
    """BP018: s = h * 2 sigmoid(K [mean over channels, max over channels]), K starting at zero.

    K looks `radius` pixels around each pixel, or at a token and the 2 * `radius` before it. A vector has no places.
    Source: Woo et al. 2018 (CBAM), arXiv:1807.06521, section 3.
    """
    return SpatialAttention(site, int(settings["radius"]))


class SpatialAttention(SeedModule):
    """Each place times a factor between 0 and 2 that its neighbourhood decides."""

    residual = True

    def __init__(self, site: SiteShape, radius: int) -> None:
        super().__init__()
        self.image = site.kind == "image"
        reach = 2 * radius + 1
        self.margin = (radius, radius, radius, radius) if self.image else (0, 0, 2 * radius, 0)
        self.look: nn.Conv2d = ZeroConv2d(2, 1, (reach, reach) if self.image else (reach, 1))

    def forward(self, h: Tensor) -> Tensor:
        """The rescaled activation; same shape. Tokens are treated as an image one pixel wide."""
        features = h if self.image else h.transpose(1, 2).unsqueeze(-1)
        summary = torch.cat([features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)], dim=1)
        factor = 2.0 * torch.sigmoid(self.look(functional.pad(summary, self.margin)))
        return h * (factor if self.image else factor.flatten(2).transpose(1, 2))
