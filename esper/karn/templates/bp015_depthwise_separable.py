"""BP015 depthwise_separable: s = h + W gelu(D h), D one filter per channel, W starting at zero.

A filter sees `kernel` x `kernel` pixels, or `kernel` tokens up to its own. A vector has no
neighbours, so it is not served. Source: Howard et al. 2017 (MobileNets), arXiv:1704.04861.
"""

from __future__ import annotations

from torch import nn

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import local, zero_pointwise


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    features = site.features
    return Residual(
        nn.Sequential(
            local(site.kind, features, features, int(settings["kernel"]), groups=features),
            nn.GELU(),
            zero_pointwise(site.kind, features, features),
        )
    )


BLUEPRINT = Blueprint(
    blueprint_id="BP015",
    name="depthwise_separable",
    stage=2,
    risk=0.4,
    kinds=("image", "token"),
    settings=(Setting("kernel", 3, 7, default=3, integer=True),),
    tags=("conv",),
    make=make,
    description="h + W gelu(D h), D per channel",
)
