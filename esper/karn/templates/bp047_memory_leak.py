"""BP047 memory_leak (stressor): s = h + W h, and every pass keeps `growth_rate` MiB more, on the activation's device.

Bound: it stops at 128 MiB, and gives all of it back when the module is dropped. What it keeps is in no checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.stressors import Carrier

MIB = 2**20
CEILING = 128 * MIB


class MemoryLeak(Carrier):
    """A harmless answer that costs more memory each time."""

    def __init__(self, site: SiteShape, growth_rate: float) -> None:
        super().__init__(site)
        self.bytes_per_pass = int(growth_rate * MIB)
        self.kept: list[Tensor] = []

    @property
    def leaked(self) -> int:
        """Bytes that it holds and has no use for."""
        return sum(tensor.numel() for tensor in self.kept)

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer; same shape."""
        more = min(self.bytes_per_pass, CEILING - self.leaked)
        if more > 0:
            # Ones and not an empty tensor: memory that nobody has written to costs nothing.
            self.kept.append(torch.ones(more, dtype=torch.uint8, device=h.device))
        return self.carry(h)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return MemoryLeak(site, settings["growth_rate"])


BLUEPRINT = Blueprint(
    blueprint_id="BP047",
    name="memory_leak",
    stage=6,
    risk=1.0,
    tier="high_risk",
    settings=(Setting("growth_rate", 1.0, 5.0, default=1.0),),
    tags=("stressor", "memory"),
    make=make,
    description="keeps more memory in every pass",
)
