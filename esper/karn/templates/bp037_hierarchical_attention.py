"""BP037 hierarchical_attention: s = h + W attention(h, [level 1, level 2, ...]), `levels` ever coarser views of it.

Over an image they are grids of 8, 4, 2 and 1 regions a side; over tokens the last eight tokens, then the means of whole
blocks of 4, 16 and 64 tokens so far: near things are seen singly and far ones as a whole. Each level has an embedding
of its own. W starts at zero. A vector has no levels. Source: Zhu and Soricut 2021 (H-Transformer-1D), arXiv:2107.11906,
section 4; images: Wu et al. 2021 (P2T), arXiv:2106.12011, section 3.2; the idea: Yang et al. 2016, NAACL.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.attention import CrossAttention
from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import Table
from esper.karn.places import block_means, from_places, sees_block, to_places

SIDES = (8, 4, 2, 1)
NEAR = 8
BLOCKS = (4, 16, 64)


class Hierarchy(nn.Module):
    """The branch: every place attends to all levels at once."""

    def __init__(self, site: SiteShape, levels: int) -> None:
        super().__init__()
        self.image = site.kind == "image"
        self.levels = levels
        self.level = Table(levels, site.features, bound=1.0)
        self.attend = CrossAttention(site.features, min(4, max(1, site.features // 8)), starts_at_zero=True)

    def forward(self, h: Tensor) -> Tensor:
        """What each place reads; same shape."""
        views = self._regions(h) if self.image else self._blocks(h)
        context = torch.cat([view + mark for view, mark in zip(views, self.level(), strict=True)], dim=1)
        if self.image:
            return from_places("image", self.attend(to_places("image", h), context), h)
        out: Tensor = self.attend(h, context, self._visible(h))
        return out

    def _regions(self, h: Tensor) -> list[Tensor]:
        height, width = h.shape[2:]
        sizes = [(min(side, height), min(side, width)) for side in SIDES[: self.levels]]
        return [to_places("image", functional.adaptive_avg_pool2d(h, size)) for size in sizes]

    def _blocks(self, h: Tensor) -> list[Tensor]:
        return [h, *(block_means(h, size) for size in BLOCKS[: self.levels - 1])]

    def _visible(self, h: Tensor) -> Tensor:
        """Which token may look at what, (T, all views)."""
        tokens = h.shape[1]
        near = torch.ones(tokens, tokens, dtype=torch.bool, device=h.device).tril().triu(1 - NEAR)
        blocks = [sees_block(tokens, size, h.device) for size in BLOCKS[: self.levels - 1]]
        return torch.cat([near, *blocks], dim=1)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(Hierarchy(site, int(settings["levels"])))


BLUEPRINT = Blueprint(
    blueprint_id="BP037",
    name="hierarchical_attention",
    stage=5,
    risk=0.7,
    tier="experimental",
    kinds=("image", "token"),
    settings=(Setting("levels", 2, 4, default=2, integer=True),),
    tags=("attention",),
    make=make,
    description="h + W attention over coarser and coarser views",
)
