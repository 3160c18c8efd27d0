"""What a blueprint is: its facts, and how it makes its module.

The facts are `esper.karn.facts`, which whoever only reads them takes from `esper.karn.table`, without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from esper.karn.facts import ALL_KINDS, Facts, Setting, Settings, ShapeKind, SiteShape, Tier

__all__ = [
    "ALL_KINDS",
    "Blueprint",
    "Facts",
    "Make",
    "Residual",
    "SeedModule",
    "Setting",
    "Settings",
    "ShapeKind",
    "SiteShape",
    "Stack",
    "Tier",
]


class SeedModule(nn.Module):
    """A seed's module: maps an activation h to s of the same shape, with the batch axis first.

    `residual` says that s(h) = h at the start, so that blending it in changes nothing until it has learnt something.
    """

    residual: bool = False


class Residual(SeedModule):
    """s = h + f(h). The branch f ends in a projection that starts at zero, so growth begins function-preserving."""

    residual = True

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, h: Tensor) -> Tensor:
        """The activation plus what the branch adds to it; same shape."""
        added: Tensor = self.branch(h)
        return h + added


class Stack(SeedModule):
    """Residual modules one after the other; the identity at the start because each of them is."""

    residual = True

    def __init__(self, blocks: Sequence[Residual]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, h: Tensor) -> Tensor:
        """The activation after the last of them; same shape."""
        out: Tensor = self.blocks(h)
        return out


Make = Callable[[SiteShape, Settings], SeedModule]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint(Facts):
    """A template of the catalogue: its facts, and `make`, which builds its module for one site."""

    make: Make
