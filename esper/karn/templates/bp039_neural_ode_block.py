"""BP039 neural_ode_block: s = x(1) where x(0) = h and dx/dt = W2 tanh(W1 norm(x) + t * c), W2 starting at zero.

Solved with `steps` steps of the classical Runge-Kutta method of fourth order, back-propagated through them: at so few
steps that is cheaper than the paper's adjoint, and exact. W1 is a 3x3 convolution over an image, three tokens long over
tokens, a linear map over a vector; tanh and norm bound the field, so that a solution cannot run away in unit time.
Source: Chen et al. 2018, arXiv:1806.07366, equation 2; the method: Hairer, Nørsett and Wanner 1993, II.1, table 1.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import local, norm, zero_pointwise

KERNEL = 3


class Field(nn.Module):
    """dx/dt at a place and a time between 0 and 1."""

    def __init__(self, site: SiteShape) -> None:
        super().__init__()
        features = site.features
        self.norm = norm(site.kind, features)
        self.first = local(site.kind, features, features, KERNEL)
        self.of_time = nn.Parameter(torch.empty((features, 1, 1) if site.kind == "image" else (features,)))
        self.last = zero_pointwise(site.kind, features, features)

    def forward(self, x: Tensor, time: float) -> Tensor:
        """Same shape as `x`."""
        out: Tensor = self.last(torch.tanh(self.first(self.norm(x)) + time * self.of_time))
        return out


class NeuralOde(SeedModule):
    """The activation moved along the field for a unit of time."""

    residual = True

    def __init__(self, site: SiteShape, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.field = Field(site)

    def forward(self, h: Tensor) -> Tensor:
        """Where it arrives; same shape."""
        span = 1.0 / self.steps
        x = h
        for step in range(self.steps):
            x = _runge_kutta(self.field, x, step * span, span)
        return x


def _runge_kutta(field: Field, x: Tensor, time: float, span: float) -> Tensor:
    """One step of fourth order: its error shrinks with the fifth power of `span`."""
    first = field(x, time)
    second = field(x + 0.5 * span * first, time + 0.5 * span)
    third = field(x + 0.5 * span * second, time + 0.5 * span)
    fourth = field(x + span * third, time + span)
    after: Tensor = x + span / 6.0 * (first + 2.0 * second + 2.0 * third + fourth)
    return after


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return NeuralOde(site, int(settings["steps"]))


BLUEPRINT = Blueprint(
    blueprint_id="BP039",
    name="neural_ode_block",
    stage=5,
    risk=0.8,
    tier="experimental",
    settings=(Setting("steps", 1, 10, default=2, integer=True),),
    tags=("ode", "residual"),
    make=make,
    description="h moved along a learned field for unit time",
)
