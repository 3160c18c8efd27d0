"""BP014 highway_gate: s = h + sigmoid(Wg h + bg + gate_bias) * (W2 gelu(W1 h)), W2 starting at zero.

The highway y = T(h) H(h) + (1 - T(h)) h with H(h) = h + u(h), so that it begins as the identity. A negative `gate_bias`
starts with the gate nearly shut. Source: Srivastava et al. 2015, arXiv:1505.00387 (which proposes -1 to -3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import pointwise, zero_pointwise


class Gated(nn.Module):
    """A transform behind a gate that is computed from the same activation."""

    def __init__(self, site: SiteShape, gate_bias: float) -> None:
        super().__init__()
        features = site.features
        self.gate_bias = gate_bias
        self.gate = pointwise(site.kind, features, features)
        self.transform = nn.Sequential(
            pointwise(site.kind, features, features),
            nn.GELU(),
            zero_pointwise(site.kind, features, features),
        )

    def forward(self, h: Tensor) -> Tensor:
        """What passes the gate; same shape."""
        passed: Tensor = torch.sigmoid(self.gate(h) + self.gate_bias) * self.transform(h)
        return passed


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(Gated(site, settings["gate_bias"]))


BLUEPRINT = Blueprint(
    blueprint_id="BP014",
    name="highway_gate",
    stage=1,
    risk=0.4,
    settings=(Setting("gate_bias", -3.0, 3.0, default=-1.0),),
    tags=("gating",),
    make=make,
    description="h + gate(h) * u(h)",
)
