"""BP023 transformer_block: `layers` times h <- h + attention(norm(h)), then h <- h + W2 gelu(W1 norm(h)).

Pre-norm, MLP four times wider, both last projections starting at zero; up to four heads of at least eight features.
Source: Vaswani et al. 2017, arXiv:1706.03762; pre-norm: Xiong et al. 2020, arXiv:2002.04745.
"""

from __future__ import annotations

from torch import nn

from esper.karn.attention import attention
from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape, Stack
from esper.karn.layers import norm, pointwise, zero_pointwise

EXPANSION = 4


def _mlp(site: SiteShape) -> nn.Module:
    wide = EXPANSION * site.features
    return nn.Sequential(
        norm(site.kind, site.features),
        pointwise(site.kind, site.features, wide),
        nn.GELU(),
        zero_pointwise(site.kind, wide, site.features),
    )


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    heads = min(4, max(1, site.features // 8))
    return Stack(
        [Residual(branch) for _ in range(int(settings["layers"])) for branch in (attention(site, heads), _mlp(site))]
    )


BLUEPRINT = Blueprint(
    blueprint_id="BP023",
    name="transformer_block",
    stage=3,
    risk=0.5,
    kinds=("image", "token"),
    settings=(Setting("layers", 1, 6, default=1, integer=True),),
    tags=("transformer", "attention"),
    make=make,
    description="pre-norm attention and MLP, both residual",
)
