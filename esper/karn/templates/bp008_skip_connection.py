"""BP008 skip_connection: s = h + W relu(norm(h)), W starting at zero: one activated layer with a way around it.

Source: He et al. 2016, "Identity Mappings in Deep Residual Networks" (full pre-activation), arXiv:1603.05027.
"""

from __future__ import annotations

from torch import nn

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Settings, SiteShape
from esper.karn.layers import norm, zero_pointwise


def make(site: SiteShape, _settings: Settings) -> SeedModule:
    """The module for one site."""
    features = site.features
    return Residual(nn.Sequential(norm(site.kind, features), nn.ReLU(), zero_pointwise(site.kind, features, features)))


BLUEPRINT = Blueprint(
    blueprint_id="BP008",
    name="skip_connection",
    stage=1,
    risk=0.2,
    tags=("residual",),
    make=make,
    description="h + W relu(norm(h))",
)
