"""The counter of FLOPs: torch's figures, also for a module that hands out a parameter as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esper.tolaria.flops import Counter


class Table(nn.Module):
    """Gives its parameter itself, a leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self) -> Tensor:
        return self.weight


class Tabled(nn.Module):
    """Multiplies by a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()

    def forward(self, h: Tensor) -> Tensor:
        return h @ self.table()


def gradients_of(module: nn.Module, counter: FlopCounterMode) -> int:
    with counter:
        loss = module(torch.ones(2, 4)).square().sum()
        torch.autograd.grad(loss, list(module.parameters()))
    return counter.get_total_flops()


def test_it_counts_what_torch_counts() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    assert gradients_of(module, Counter()) == gradients_of(module, FlopCounterMode(display=False)) > 0


def test_a_module_that_gives_its_parameter_is_counted_where_torchs_own_counter_raises() -> None:
    with pytest.raises(RuntimeError, match="leaf node"):
        gradients_of(Tabled(), FlopCounterMode(display=False))
    assert gradients_of(Tabled(), Counter()) == 2 * (2 * 2 * 4 * 4)
