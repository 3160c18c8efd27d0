"""BP009 residual_block: `depth` times h <- h + W2 gelu(W1 h), W2 starting at zero.

W1 widens four times: a 3x3 convolution over an image, a linear map over a vector, a linear map of the normalised
features over a token (a Transformer's MLP).
Source: He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027.
"""

from __future__ import annotations

from torch import nn

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape, Stack
from esper.karn.layers import local, norm, pointwise, zero_pointwise

EXPANSION = 4


def _branch(site: SiteShape) -> nn.Module:
    wide = EXPANSION * site.features
    layers: list[nn.Module] = [norm("token", site.features)] if site.kind == "token" else []
    first = (
        local("image", site.features, wide, 3) if site.kind == "image" else pointwise(site.kind, site.features, wide)
    )
    return nn.Sequential(*layers, first, nn.GELU(), zero_pointwise(site.kind, wide, site.features))


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Stack([Residual(_branch(site)) for _ in range(int(settings["depth"]))])


BLUEPRINT = Blueprint(
    blueprint_id="BP009",
    name="residual_block",
    stage=1,
    risk=0.3,
    settings=(Setting("depth", 1, 4, default=1, integer=True),),
    tags=("residual",),
    make=make,
    description="h + W2 gelu(W1 h), four times wider inside",
)
