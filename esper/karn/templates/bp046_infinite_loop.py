"""BP046 infinite_loop (stressor): s = h + W h, after waiting in vain for a fixed point.

It rotates a pair of numbers by a radian until it stops moving, which it never does. Bound: it gives up after
`iterations` rounds, which take about 5 to 50 ms on a CPU: some thousand times what an ordinary seed takes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.stressors import Carrier


class InfiniteLoop(Carrier):
    """A harmless answer that comes far too late."""

    def __init__(self, site: SiteShape, iterations: int) -> None:
        super().__init__(site)
        self.iterations = iterations

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer; same shape."""
        with torch.no_grad():
            turn = h.new_tensor([[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]])
            point = h.new_ones(2)
            for _ in range(self.iterations):
                point = turn @ point
        return self.carry(h)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return InfiniteLoop(site, int(settings["iterations"]))


BLUEPRINT = Blueprint(
    blueprint_id="BP046",
    name="infinite_loop",
    stage=6,
    risk=1.0,
    tier="high_risk",
    settings=(Setting("iterations", 1000, 10000, default=1000, integer=True),),
    tags=("stressor", "time"),
    make=make,
    description="thousands of useless rounds in every pass",
)
