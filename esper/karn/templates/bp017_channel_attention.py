"""BP017 channel_attention: s = h * 2 sigmoid(w . A(e)), channels attending to channels; w starts at zero.

Channel c is a token of its own, e_c = identity_c + z_c * value_c, where z is the squeezed activation (the mean pixel,
the mean of all tokens so far, or the vector itself). A is self-attention with `heads` heads of four features over these
C tokens, softmax(Q K^T / 2) V. Factors start at one.
Source: features as tokens, Song et al. 2019 (AutoInt), arXiv:1810.11921, equations 4 to 7; factors from squeezed
channels, Woo et al. 2018 (CBAM), arXiv:1807.06521, section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, ShapeKind, SiteShape
from esper.karn.layers import Table, ZeroLinear
from esper.karn.places import squeeze

WIDTH = 4


class ChannelAttention(SeedModule):
    """Each channel times a factor between 0 and 2 that it decides by looking at the others."""

    residual = True

    def __init__(self, site: SiteShape, heads: int) -> None:
        super().__init__()
        self.kind: ShapeKind = site.kind
        self.heads = heads
        inner = heads * WIDTH
        self.identity = Table(site.features, inner, bound=1.0)
        self.value = Table(site.features, inner, bound=1.0)
        self.query_key_value = nn.Linear(inner, 3 * inner)
        self.score = ZeroLinear(inner, 1)

    def forward(self, h: Tensor) -> Tensor:
        """The rescaled activation; same shape."""
        summary = squeeze(self.kind, h)
        z = summary.flatten(1) if self.kind == "image" else summary
        tokens = self.identity() + z.unsqueeze(-1) * self.value()
        both = self.query_key_value(tokens).unflatten(-1, (3, self.heads, WIDTH))
        query, key, value = both.movedim(-3, 0).transpose(-3, -2)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(-3, -2).flatten(-2)
        factor = 2.0 * torch.sigmoid(self.score(mixed).squeeze(-1))
        return h * factor.view_as(summary)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return ChannelAttention(site, int(settings["heads"]))


BLUEPRINT = Blueprint(
    blueprint_id="BP017",
    name="channel_attention",
    stage=2,
    risk=0.4,
    settings=(Setting("heads", 1, 4, default=1, integer=True),),
    tags=("attention", "channel"),
    make=make,
    description="h * 2 sigmoid(attention among channels)",
)
