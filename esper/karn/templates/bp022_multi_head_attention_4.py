"""BP022 multi_head_attention_4: s = h + W attention(norm(h)) with four to six heads, W starting at zero.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.
"""

from __future__ import annotations

from esper.karn.attention import attention
from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(attention(site, int(settings["heads"])))


BLUEPRINT = Blueprint(
    blueprint_id="BP022",
    name="multi_head_attention_4",
    stage=3,
    risk=0.5,
    kinds=("image", "token"),
    settings=(Setting("heads", 4, 6, default=4, integer=True),),
    tags=("attention",),
    make=make,
    description="h + W attention(norm(h)), four heads",
)
