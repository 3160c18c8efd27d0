"""What the stressors share: a carrier that looks and learns like a harmless seed, and a scaling of gradients.

A stressor exists to make a safety path fire in a quarantine drill. Each says in its docstring how it misbehaves and
what bounds that, so that a drill ends; none can be offered or built without a clearance for a drill.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from esper.karn.blueprint import SeedModule, SiteShape
from esper.karn.layers import zero_pointwise


class Carrier(SeedModule):
    """s = h + W h with W starting at zero, from which a stressor departs; so it is not residual."""

    def __init__(self, site: SiteShape) -> None:
        super().__init__()
        self.learnt: nn.Module = zero_pointwise(site.kind, site.features, site.features)

    def carry(self, h: Tensor) -> Tensor:
        """What a harmless seed would answer; same shape."""
        added: Tensor = self.learnt(h)
        return h + added


class ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, factor: float) -> Tensor:
        """The same values."""
        ctx.factor = factor
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient times the factor; the factor has none."""
        (gradient,) = gradients
        return gradient * ctx.factor, None


def scale_gradient(h: Tensor, factor: float) -> Tensor:
    """`h` itself; its gradient is multiplied by `factor`."""
    scaled: Tensor = ScaledGradient.apply(h, factor)  # type: ignore[no-untyped-call]  # torch has no types for it
    return scaled
