"""BP020 attention_single_head: s = h + W attention(norm(h)) with one head, W starting at zero.

`sequence_length` bounds what a place can see: a token sees that many tokens up to itself; over an image the keys are
averaged down to at most that many places. Source: Vaswani et al. 2017, arXiv:1706.03762.
"""

from __future__ import annotations

from esper.karn.attention import attention
from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(attention(site, 1, int(settings["sequence_length"])))


BLUEPRINT = Blueprint(
    blueprint_id="BP020",
    name="attention_single_head",
    stage=2,
    risk=0.5,
    kinds=("image", "token"),
    settings=(Setting("sequence_length", 16, 256, default=64, integer=True),),
    tags=("attention",),
    make=make,
    description="h + W attention(norm(h)), one head",
)
