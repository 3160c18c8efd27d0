"""BP029 multi_head_attention_8: s = h + W attention(norm(h)) with eight to ten heads, W starting at zero.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.
"""

from __future__ import annotations

from esper.karn.attention import attention
from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(attention(site, int(settings["heads"])))


BLUEPRINT = Blueprint(
    blueprint_id="BP029",
    name="multi_head_attention_8",
    stage=4,
    risk=0.5,
    kinds=("image", "token"),
    settings=(Setting("heads", 8, 10, default=8, integer=True),),
    tags=("attention",),
    make=make,
    description="h + W attention(norm(h)), eight heads",
)
