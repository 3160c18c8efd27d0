"""BP042 recursive_processing: `depth` times h <- h + f(h + step_i), the same f every time; its last map starts at zero.

f(x) = W2 gelu(W1 norm(x)): W1 is a 3x3 convolution over an image, three tokens long over tokens, a linear map over a
vector. step_i tells the layer which pass it is in. Every pass costs time and none costs parameters but its step.
Source: Dehghani et al. 2019 (Universal Transformer), arXiv:1807.03819, equations 2 to 5, with a fixed number of passes.
"""

from __future__ import annotations

from torch import Tensor, nn

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import Table, local, norm, zero_pointwise

KERNEL = 3


class Recursive(SeedModule):
    """One residual layer, applied again to what it gave."""

    residual = True

    def __init__(self, site: SiteShape, depth: int) -> None:
        super().__init__()
        features = site.features
        places = (1, 1) if site.kind == "image" else ()
        self.steps = Table(depth, features, *places, bound=0.1)
        self.layer = nn.Sequential(
            norm(site.kind, features),
            local(site.kind, features, features, KERNEL),
            nn.GELU(),
            zero_pointwise(site.kind, features, features),
        )

    def forward(self, h: Tensor) -> Tensor:
        """The activation after the last pass; same shape."""
        for step in self.steps():
            h = h + self.layer(h + step)
        return h


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Recursive(site, int(settings["depth"]))


BLUEPRINT = Blueprint(
    blueprint_id="BP042",
    name="recursive_processing",
    stage=5,
    risk=0.8,
    tier="experimental",
    settings=(Setting("depth", 2, 6, default=2, integer=True),),
    tags=("recursive", "residual"),
    make=make,
    description="one layer applied again and again",
)
