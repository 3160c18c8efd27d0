"""Residual blocks that cost less than the residual block: along one axis, channel by channel, or no wider inside.

A 3x3 convolution that widens four times takes 40 F² multiplications a pixel; these take 16 F², 9 F + 8 F² and 10 F².
Over an image that is one pixel wide or high no tap of theirs lies where there can be no pixel: of the nine taps of a
3x3 kernel six would only ever see padding. Each is s = h + f(h) with a last projection that starts at zero.
"""

from __future__ import annotations

from torch import nn

from esper.karn.blueprint import Settings, SiteShape
from esper.karn.layers import Residual, SameConv2d, SeedModule, local, norm, pointwise, zero_pointwise

EXPANSION = 4
KERNEL = 3


def residual_conv_1d(site: SiteShape, settings: Settings) -> SeedModule:
    """BP060: s = h + W2 gelu(W1 h), W1 a convolution along the image's longer axis, W2 starting at zero.

    W1 sees `kernel` pixels, those above each other where the image is square, and widens four times: over a signal, an
    image one pixel wide, it is the residual block at a third of its cost.
    Source: He et al. 2016, arXiv:1603.05027; along one axis: Szegedy et al. 2016, arXiv:1512.00567, section 3.2.
    """
    features, wide, kernel = site.features, EXPANSION * site.features, int(settings["kernel"])
    _, height, width = site.shape
    along = (kernel, 1) if height >= width else (1, kernel)
    return Residual(
        nn.Sequential(SameConv2d(features, wide, along), nn.GELU(), zero_pointwise("image", wide, features))
    )


def residual_depthwise(site: SiteShape, settings: Settings) -> SeedModule:
    """BP061: s = h + W2 gelu(W1 D h), D one filter per channel, W1 widens four times, W2 starts at zero.

    D sees `kernel` x `kernel` pixels, or `kernel` tokens up to its own, and W1 and W2 are maps at each of them. Over a
    vector there are no neighbours. Source: Liu et al. 2022 (ConvNeXt), arXiv:2201.03545, section 2.4.
    """
    features, wide = site.features, EXPANSION * site.features
    return Residual(
        nn.Sequential(
            _fitted(site, features, int(settings["kernel"]), groups=features),
            pointwise(site.kind, features, wide),
            nn.GELU(),
            zero_pointwise(site.kind, wide, features),
        )
    )


def residual_slim(site: SiteShape, settings: Settings) -> SeedModule:
    """BP062: s = h + W2 gelu(W1 h), W1 to `expansion` times as many features, W2 starting at zero.

    W1 is a 3x3 convolution over an image, a linear map over a vector, a linear map of the normalised features over a
    token; there are as many features inside as outside by default, one at least.
    Source: He et al. 2016, arXiv:1603.05027.
    """
    features, inside = site.features, max(1, round(settings["expansion"] * site.features))
    first = _fitted(site, inside, KERNEL) if site.kind == "image" else pointwise(site.kind, features, inside)
    layers: list[nn.Module] = [norm("token", features)] if site.kind == "token" else []
    return Residual(nn.Sequential(*layers, first, nn.GELU(), zero_pointwise(site.kind, inside, features)))


def _fitted(site: SiteShape, out_features: int, kernel: int, *, groups: int = 1) -> nn.Module:
    """A convolution as long as `kernel` along each axis on which the site has neighbours."""
    if site.kind != "image":
        return local(site.kind, site.features, out_features, kernel, groups=groups)
    _, height, width = site.shape
    taps = (kernel if height > 1 else 1, kernel if width > 1 else 1)
    return SameConv2d(site.features, out_features, taps, groups=groups)
