"""BP040 differentiable_nas: s = h + W gelu(sum_o softmax((a + noise) / temperature)_o * o(h)), W starting at zero.

The candidates o are layers; their weights a start equal and are learned with everything else. While training the noise
is Gumbel's, one draw for the whole batch, so that each pass tries a choice; otherwise there is none. A lower
`temperature` makes choices more decided. Candidates: nothing, a pointwise map, a local map, a wider local map, a gated
map (over a vector: nothing, a full, a grouped, a narrow and a gated map).
Source: Liu et al. 2019 (DARTS), arXiv:1806.09055, equation 2; with noise, Xie et al. 2019 (SNAS), arXiv:1812.09926,
equation 5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import divisor, local, pointwise, zero_pointwise


class Choice(nn.Module):
    """A mixture of candidates that leans towards what helps."""

    def __init__(self, site: SiteShape, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.candidates = nn.ModuleList(_candidates(site))
        self.preference = nn.Parameter(torch.empty(len(self.candidates) + 1))

    def forward(self, h: Tensor) -> Tensor:
        """The mixture; same shape. The last preference is for nothing."""
        weights = torch.softmax((self.preference + self._noise()) / self.temperature, dim=0)
        mixed = torch.zeros_like(h)
        for weight, candidate in zip(weights[:-1], self.candidates, strict=True):
            mixed = mixed + weight * candidate(h)
        return mixed

    def _noise(self) -> Tensor:
        """Gumbel's, -log(E) with E exponential, from the stream that is current; zero when not training."""
        if not self.training:
            return torch.zeros_like(self.preference)
        return -torch.empty_like(self.preference).exponential_().clamp_min(1e-20).log()


def _candidates(site: SiteShape) -> list[nn.Module]:
    kind, features = site.kind, site.features
    axis = 1 if kind == "image" else -1
    gated = nn.Sequential(pointwise(kind, features, 2 * features), nn.GLU(dim=axis))
    if kind == "vector":
        narrow = max(1, features // 2)
        grouped = local(kind, features, features, 1, groups=divisor(features, 4))
        thin = nn.Sequential(nn.Linear(features, narrow), nn.GELU(), nn.Linear(narrow, features))
        return [nn.Linear(features, features), grouped, thin, gated]
    near = local(kind, features, features, 3, groups=features)
    far = local(kind, features, features, 3, groups=features, dilation=2)
    return [pointwise(kind, features, features), near, far, gated]


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(
        nn.Sequential(
            Choice(site, settings["temperature"]), nn.GELU(), zero_pointwise(site.kind, site.features, site.features)
        )
    )


BLUEPRINT = Blueprint(
    blueprint_id="BP040",
    name="differentiable_nas",
    stage=5,
    risk=0.8,
    tier="experimental",
    settings=(Setting("temperature", 0.5, 2.0, default=1.0),),
    tags=("nas", "dynamic"),
    make=make,
    description="h + W of a learned mixture of layers",
)
