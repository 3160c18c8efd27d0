"""Residual blocks: skip connection, residual block, feature fusion, dense connection, gated feed-forward layer.

Each is s = h + f(h) with a last projection that starts at zero, so growth begins as the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Settings, SiteShape
from esper.karn.layers import Residual, SeedModule, Stack, local, norm, pointwise, zero_pointwise

EXPANSION = 4
DENSE_LAYERS = 3
DENSE_KERNEL = 3


def skip_connection(site: SiteShape, _settings: Settings) -> SeedModule:
    """BP008: s = h + W relu(norm(h)), W starting at zero: one activated layer with a way around it.

    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks" (full pre-activation), arXiv:1603.05027.
    """
    features = site.features
    return Residual(nn.Sequential(norm(site.kind, features), nn.ReLU(), zero_pointwise(site.kind, features, features)))


def residual_block(site: SiteShape, settings: Settings) -> SeedModule:
    """BP009: `depth` times h <- h + W2 gelu(W1 h), W2 starting at zero.

    W1 widens four times: a 3x3 convolution over an image, a linear map over a vector, a linear map of the normalised
    features over a token (a Transformer's MLP).
    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027.
    """
    return Stack([Residual(_wide_branch(site)) for _ in range(int(settings["depth"]))])


def _wide_branch(site: SiteShape) -> nn.Module:
    wide = EXPANSION * site.features
    layers: list[nn.Module] = [norm("token", site.features)] if site.kind == "token" else []
    first = (
        local("image", site.features, wide, 3) if site.kind == "image" else pointwise(site.kind, site.features, wide)
    )
    return nn.Sequential(*layers, first, nn.GELU(), zero_pointwise(site.kind, wide, site.features))


def concat_fusion(site: SiteShape, settings: Settings) -> SeedModule:
    """BP010: s = h + W [gelu(b1(h)), gelu(b2(h)), ...], `branches` views side by side, W starting at zero.

    Branch i looks further than the one before it: 2i - 1 pixels across, i tokens back, or i layers deep over a vector.
    Each gives F / branches features, rounded up. Source: Szegedy et al. 2015 (Inception), arXiv:1409.4842, section 4;
    with a way around it: Szegedy et al. 2016, arXiv:1602.07261, section 3.2.
    """
    return Residual(Fusion(site, int(settings["branches"])))


class Fusion(nn.Module):
    """The branches, concatenated over features and projected."""

    def __init__(self, site: SiteShape, branches: int) -> None:
        super().__init__()
        narrow = -(-site.features // branches)
        self.features_axis = 1 if site.kind == "image" else -1
        self.branches = nn.ModuleList(_fusion_branch(site, narrow, number) for number in range(1, branches + 1))
        self.project = zero_pointwise(site.kind, narrow * branches, site.features)

    def forward(self, h: Tensor) -> Tensor:
        """What the branches add together; same shape."""
        seen = torch.cat([branch(h) for branch in self.branches], dim=self.features_axis)
        out: Tensor = self.project(seen)
        return out


def _fusion_branch(site: SiteShape, narrow: int, number: int) -> nn.Module:
    layers: list[nn.Module] = [pointwise(site.kind, site.features, narrow), nn.GELU()]
    if site.kind == "vector":
        for _ in range(number - 1):
            layers += [pointwise("vector", narrow, narrow), nn.GELU()]
    elif number > 1:
        kernel = 2 * number - 1 if site.kind == "image" else number
        layers += [local(site.kind, narrow, narrow, kernel), nn.GELU()]
    return nn.Sequential(*layers)


def dense_connection(site: SiteShape, settings: Settings) -> SeedModule:
    """BP028: s = h + W [x1, x2, x3], x_i = gelu(layer_i([h, x1, ..., x_(i-1)])), W starting at zero.

    Every layer sees all that came before it and adds `growth_rate` features: a 3x3 convolution over an image, three
    tokens long over tokens, a linear map over a vector. Source: Huang et al. 2017 (DenseNet), arXiv:1608.06993,
    equation 2.
    """
    return Residual(Dense(site, int(settings["growth_rate"])))


class Dense(nn.Module):
    """The branch: layers that each see everything before them."""

    def __init__(self, site: SiteShape, growth: int) -> None:
        super().__init__()
        self.features_axis = 1 if site.kind == "image" else -1
        self.layers = nn.ModuleList(
            local(site.kind, site.features + number * growth, growth, DENSE_KERNEL) for number in range(DENSE_LAYERS)
        )
        self.project = zero_pointwise(site.kind, DENSE_LAYERS * growth, site.features)

    def forward(self, h: Tensor) -> Tensor:
        """What the new features add; same shape."""
        seen = [h]
        for layer in self.layers:
            seen.append(functional.gelu(layer(torch.cat(seen, dim=self.features_axis))))
        out: Tensor = self.project(torch.cat(seen[1:], dim=self.features_axis))
        return out


def feedforward_gated(site: SiteShape, settings: Settings) -> SeedModule:
    """BP021: s = h + W (gelu(A n) * B n), n = norm(h), W starting at zero (GEGLU).

    `hidden_multiple` is the inner width in multiples of the features, rounded to a whole number of them.
    Source: Shazeer 2020, arXiv:2002.05202.
    """
    return Residual(GatedFeedforward(site, round(settings["hidden_multiple"] * site.features)))


class GatedFeedforward(nn.Module):
    """The branch: two maps of the normalised activation, one gating the other."""

    def __init__(self, site: SiteShape, hidden: int) -> None:
        super().__init__()
        self.norm = norm(site.kind, site.features)
        self.gate = pointwise(site.kind, site.features, hidden)
        self.value = pointwise(site.kind, site.features, hidden)
        self.project = zero_pointwise(site.kind, hidden, site.features)

    def forward(self, h: Tensor) -> Tensor:
        """What the branch adds; same shape."""
        n = self.norm(h)
        out: Tensor = self.project(functional.gelu(self.gate(n)) * self.value(n))
        return out
