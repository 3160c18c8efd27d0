"""BP027 feature_pyramid: s = h + W smooth(p_1), p_i = lateral_i(c_i) + up(p_(i+1)), W starting at zero.

Bottom-up, c_1 = h and c_(i+1) = gelu(step_i(c_i)): over an image a 3x3 convolution that halves height and width, with
nearest-neighbour `up`; over tokens a causal convolution of two tokens that lie 2^(i-1) apart, so that the reach doubles
at each level while the length stays and `up` is nothing (the à trous form). A vector has no scales.
Source: Lin et al. 2017 (FPN), arXiv:1612.03144, section 3; à trous: Yu and Koltun 2016, arXiv:1511.07122.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import CausalConv, local, pointwise, zero_pointwise


class Pyramid(nn.Module):
    """The branch: up the levels, down again with what the coarser ones saw, smoothed and projected."""

    def __init__(self, site: SiteShape, levels: int) -> None:
        super().__init__()
        features = site.features
        self.steps = nn.ModuleList(_step(site, level) for level in range(levels - 1))
        self.laterals = nn.ModuleList(pointwise(site.kind, features, features) for _ in range(levels))
        self.smooth = local(site.kind, features, features, 3)
        self.project = zero_pointwise(site.kind, features, features)

    def forward(self, h: Tensor) -> Tensor:
        """What the pyramid adds at the finest level; same shape."""
        levels = [h]
        for step in self.steps:
            levels.append(functional.gelu(step(levels[-1])))
        laterals = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        seen = laterals.pop()
        while laterals:
            finer = laterals.pop()
            coarser = functional.interpolate(seen, size=finer.shape[2:]) if h.dim() == 4 else seen
            seen = finer + coarser
        out: Tensor = self.project(functional.gelu(self.smooth(seen)))
        return out


def _step(site: SiteShape, level: int) -> nn.Module:
    if site.kind == "image":
        return nn.Conv2d(site.features, site.features, 3, stride=2, padding=1)
    return CausalConv(site.features, site.features, 2, dilation=2**level)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(Pyramid(site, int(settings["levels"])))


BLUEPRINT = Blueprint(
    blueprint_id="BP027",
    name="feature_pyramid",
    stage=3,
    risk=0.5,
    kinds=("image", "token"),
    settings=(Setting("levels", 3, 5, default=3, integer=True),),
    tags=("fusion", "conv"),
    make=make,
    description="h + W of a top-down feature pyramid",
)
