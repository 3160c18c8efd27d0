"""BP013 grouped_conv: s = h + W gelu(G h), G a convolution by groups, W starting at zero.

G is 3x3 over an image, three tokens long over tokens, and a block-diagonal map over a vector. `groups` is how many
at most: the largest number up to it that divides the features is used.
Source: Xie et al. 2017 (ResNeXt), arXiv:1611.05431.
"""

from __future__ import annotations

from torch import nn

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import divisor, local, zero_pointwise

KERNEL = 3


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    features = site.features
    groups = divisor(features, int(settings["groups"]))
    return Residual(
        nn.Sequential(
            local(site.kind, features, features, KERNEL, groups=groups),
            nn.GELU(),
            zero_pointwise(site.kind, features, features),
        )
    )


BLUEPRINT = Blueprint(
    blueprint_id="BP013",
    name="grouped_conv",
    stage=1,
    risk=0.4,
    settings=(Setting("groups", 2, 8, default=2, integer=True),),
    tags=("conv",),
    make=make,
    description="h + W gelu(G h), G by groups",
)
