"""A multi-layer perceptron with tanh units: the host of `spirals`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Inputs of shape (B, inputs) to logits (B, classes); `layers.<i>` are the hidden layers and the sites."""

    def __init__(self, inputs: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(fan_in, fan_out), nn.Tanh()) for fan_in, fan_out in pairwise((inputs, *widths))
        )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, classes) of inputs (B, inputs)."""
        hidden = inputs
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.head(hidden)
        return logits


def mlp_widths(params: int, *, inputs: int, classes: int, depth: int) -> list[int]:
    """Hidden widths of the MLP whose parameter count is nearest to `params`; layers differ by one unit at most."""

    def count(units: int) -> int:
        widths = _spread(units, depth)
        return sum((a + 1) * b for a, b in pairwise((inputs, *widths, classes)))

    units = depth
    while abs(count(units + 1) - params) <= abs(count(units) - params):
        units += 1
    return _spread(units, depth)


def _spread(units: int, depth: int) -> list[int]:
    return [units // depth + (layer < units % depth) for layer in range(depth)]
