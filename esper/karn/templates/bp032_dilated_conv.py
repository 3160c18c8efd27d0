"""BP032 dilated_conv: s = h + W gelu(D h), D a convolution whose taps lie `dilation` apart, W starting at zero.

3x3 pixels, or three tokens up to its own. A vector has no neighbours.
Source: Yu and Koltun 2016, arXiv:1511.07122, equation 2.
"""

from __future__ import annotations

from torch import nn

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import local, zero_pointwise

KERNEL = 3


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    features = site.features
    return Residual(
        nn.Sequential(
            local(site.kind, features, features, KERNEL, dilation=int(settings["dilation"])),
            nn.GELU(),
            zero_pointwise(site.kind, features, features),
        )
    )


BLUEPRINT = Blueprint(
    blueprint_id="BP032",
    name="dilated_conv",
    stage=4,
    risk=0.5,
    kinds=("image", "token"),
    settings=(Setting("dilation", 1, 8, default=2, integer=True),),
    tags=("conv",),
    make=make,
    description="h + W gelu(D h), D dilated",
)
