"""BP019 cross_attention: s = h + W cross(h, context), W zero at first: the site reads from a smaller sequence.

Over an image the context is eight learned latents that have first read from all pixels (two cross-attentions). Over
tokens it is the means of the whole blocks of four tokens so far, and a learned first entry for when there is none. A
vector has no second sequence to read from.
Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3; latents: Lee et al. 2019 (Set Transformer),
arXiv:1810.00825, equations 9 and 10; block summaries: Zhu and Soricut 2021, arXiv:2107.11906, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.attention import CrossAttention
from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import Table
from esper.karn.places import block_means, from_places, sees_block, to_places

LATENTS = 8
BLOCK = 4


class FromLatents(nn.Module):
    """Pixels (B, C, H, W) read from latents that have read from all pixels."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.latents = Table(LATENTS, features, bound=1.0)
        self.gather = CrossAttention(features, heads, starts_at_zero=False)
        self.read = CrossAttention(features, heads, starts_at_zero=True)

    def forward(self, h: Tensor) -> Tensor:
        """What each pixel reads; same shape."""
        pixels = to_places("image", h)
        # A sum and not a view: torch's FLOP counter cannot follow a view of a parameter where gradients are off.
        latents = self.latents() + h.new_zeros(h.shape[0], 1, 1)
        told = latents + self.gather(latents, pixels)
        return from_places("image", self.read(pixels, told), h)


class FromBlocks(nn.Module):
    """Tokens (B, T, F) read from the means of the blocks that are complete at that token."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.nothing_yet = Table(1, features, bound=1.0)
        self.read = CrossAttention(features, heads, starts_at_zero=True)

    def forward(self, h: Tensor) -> Tensor:
        """What each token reads; same shape."""
        first = self.nothing_yet().expand(h.shape[0], -1, -1)
        context = torch.cat([first, block_means(h, BLOCK)], dim=1)
        visible = functional.pad(sees_block(h.shape[1], BLOCK, h.device), (1, 0), value=True)
        out: Tensor = self.read(h, context, visible)
        return out


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    reader = FromLatents if site.kind == "image" else FromBlocks
    return Residual(reader(site.features, int(settings["heads"])))


BLUEPRINT = Blueprint(
    blueprint_id="BP019",
    name="cross_attention",
    stage=2,
    risk=0.5,
    kinds=("image", "token"),
    settings=(Setting("heads", 2, 4, default=2, integer=True),),
    tags=("attention",),
    make=make,
    description="h + W cross(h, summary of h)",
)
