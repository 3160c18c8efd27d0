"""BP031 temporal_conv: s = h + W gelu(C2 gelu(C1 norm(h))), two causal convolutions along time; W starts at zero.

C1 sees three tokens `dilation` apart, C2 three tokens twice as far apart. Images and vectors have no time.
Source: Bai et al. 2018 (TCN), arXiv:1803.01271, sections 3.1 to 3.3.
"""

from __future__ import annotations

from torch import nn

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import CausalConv, ZeroLinear

KERNEL = 3


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
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


BLUEPRINT = Blueprint(
    blueprint_id="BP031",
    name="temporal_conv",
    stage=4,
    risk=0.5,
    kinds=("token",),
    settings=(Setting("dilation", 1, 5, default=1, integer=True),),
    tags=("conv", "temporal"),
    make=make,
    description="h + W of two causal convolutions",
)
