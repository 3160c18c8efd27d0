"""BP050 adversarial_noise (stressor): s = h + W h + epsilon * rms(h) * d, d = sign of the loss's last mean gradient.

One direction for all samples, learned from what came back in the last training pass, against which the whole network
has to work: a fast gradient sign step in the activation. Before the first pass d is +1 everywhere. Bound: no element is
moved by more than `epsilon` times the activation's root mean square. Source: Goodfellow et al. 2015, arXiv:1412.6572,
section 4; one for all samples: Moosavi-Dezfooli et al. 2017, arXiv:1610.08401.
"""

from __future__ import annotations

import torch
from torch import Tensor

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import OwnStart
from esper.karn.stressors import Carrier


class AdversarialNoise(OwnStart, Carrier):
    """An answer that is pushed to where the loss rises fastest."""

    direction: Tensor

    def __init__(self, site: SiteShape, epsilon: float) -> None:
        super().__init__(site)
        self.epsilon = epsilon
        self.register_buffer("direction", torch.empty(site.shape))

    def start(self, generator: torch.Generator) -> None:  # noqa: ARG002  (nothing here is drawn)
        """Upwards everywhere."""
        self.direction.fill_(1.0)

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer, disturbed; same shape."""
        size = h.detach().square().mean().sqrt()
        s = self.carry(h) + self.epsilon * size * self.direction.clone()
        if self.training and s.requires_grad:
            s.register_hook(self._learn)  # type: ignore[no-untyped-call]  # torch has no types for it
        return s

    @torch.no_grad()
    def _learn(self, gradient: Tensor) -> None:
        if gradient.shape[1:] == self.direction.shape:
            self.direction.copy_(gradient.mean(dim=0).sign())


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return AdversarialNoise(site, settings["epsilon"])


BLUEPRINT = Blueprint(
    blueprint_id="BP050",
    name="adversarial_noise",
    stage=6,
    risk=0.9,
    tier="high_risk",
    settings=(Setting("epsilon", 0.1, 1.0, default=0.5),),
    tags=("stressor", "noise"),
    make=make,
    description="noise against the loss's gradient",
)
