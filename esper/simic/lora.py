"""Low-rank adapters: a trained network learns one new task by a few parameters, while its own stay as they are.

A linear layer W becomes W x + (alpha / rank) B A dropout(x), with A drawn at random and B zero, so that the network
says at first what it said before. Source: Hu et al., "LoRA", 2021 (arXiv 2106.09685), section 4.1; R-SIM-23.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class LoRASettings:
    """Rank of the adapters, their scale times the rank (alpha), and the dropout on their inputs."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.1


class Adapted(nn.Module):
    """A linear layer with an adapter beside it; inputs and outputs are those of the layer."""

    def __init__(self, base: nn.Module, settings: LoRASettings, generator: torch.Generator) -> None:
        super().__init__()
        weight = base.weight
        assert isinstance(weight, Tensor)
        outputs, inputs = weight.shape
        self.base = base
        self.dropout = nn.Dropout(settings.dropout)
        self.scale = settings.alpha / settings.rank
        self.down = nn.Parameter(weight.new_empty(settings.rank, inputs))
        self.up = nn.Parameter(weight.new_zeros(outputs, settings.rank))
        bound = math.sqrt(6.0 / ((1.0 + 5.0) * inputs))  # kaiming uniform with a = sqrt(5), as a linear layer begins
        with torch.no_grad():
            self.down.uniform_(-bound, bound, generator=generator)

    def forward(self, features: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        added: Tensor = self.dropout(features) @ self.down.T @ self.up.T
        out: Tensor = self.base(features)
        return out + self.scale * added

    def merged(self) -> nn.Module:
        """The layer itself, with what the adapter has learnt added to its weights."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            weight += self.scale * (self.up @ self.down)
        return self.base


def attach(
    network: nn.Module,
    settings: LoRASettings,
    generator: torch.Generator,
    *,
    which: Callable[[str], bool] = lambda _name: True,
) -> list[str]:
    """Put an adapter beside every linear layer whose name `which` takes, and freeze all else; the layers' names.

    Raises InvalidInput where no layer is taken.
    """
    found = [name for name, module in network.named_modules() if _is_linear(module) and which(name)]
    if not found:
        raise InvalidInput("no linear layer of the network is to be adapted: name one that it has")
    network.requires_grad_(False)
    for name in found:
        _replace(network, name, Adapted(network.get_submodule(name), settings, generator))
    return found


def adapters(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The adapters' parameters by name: all that is trained, and all that has to be kept of it."""
    return ((name, each) for name, each in network.named_parameters() if each.requires_grad)


def merge(network: nn.Module) -> None:
    """Add every adapter to its layer and take it away; the network has its own layers again, and all of it trains."""
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, Adapted)]
    for name, module in found:
        _replace(network, name, module.merged())
    network.requires_grad_(True)


def _is_linear(module: nn.Module) -> bool:
    """Also torch_geometric's own class of linear layers, which is none of torch's."""
    weight = getattr(module, "weight", None)
    return type(module).__name__ == "Linear" and isinstance(weight, Tensor) and weight.dim() == 2


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)
