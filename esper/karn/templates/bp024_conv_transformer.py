"""BP024 conv_transformer: h <- h + attention(norm(h)), then h <- h + conv(norm(h)): far and near in one block.

conv: pointwise to twice the width, gated linear unit, one filter of `kernel` pixels or tokens per channel, norm, SiLU,
pointwise; it and the attention end in projections that start at zero. LayerNorm where the paper has batch norm, so that
a sample's result does not depend on the others. A vector has neither far nor near.
Source: Gulati et al. 2020 (Conformer), arXiv:2005.08100, figures 1 and 2.
"""

from __future__ import annotations

from torch import nn

from esper.karn.attention import attention
from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape, Stack
from esper.karn.layers import local, norm, pointwise, zero_pointwise


def _conv(site: SiteShape, kernel: int) -> nn.Module:
    features = site.features
    return nn.Sequential(
        norm(site.kind, features),
        pointwise(site.kind, features, 2 * features),
        nn.GLU(dim=1 if site.kind == "image" else -1),
        local(site.kind, features, features, kernel, groups=features),
        norm(site.kind, features),
        nn.SiLU(),
        zero_pointwise(site.kind, features, features),
    )


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    heads = min(4, max(1, site.features // 8))
    return Stack([Residual(attention(site, heads)), Residual(_conv(site, int(settings["kernel"])))])


BLUEPRINT = Blueprint(
    blueprint_id="BP024",
    name="conv_transformer",
    stage=3,
    risk=0.5,
    kinds=("image", "token"),
    settings=(Setting("kernel", 3, 11, default=3, integer=True),),
    tags=("attention", "conv", "hybrid"),
    make=make,
    description="attention, then a gated convolution, both residual",
)
