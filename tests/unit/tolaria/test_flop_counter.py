"""The counter of FLOPs: torch's figures, also for a module that hands out a parameter as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from esper.tolaria.config import RunConfig
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


@pytest.mark.parametrize("masked", [{}, {"is_causal": True}, {"attn_mask": torch.zeros(8, 8)}])
def test_attention_of_a_cpu_is_counted_where_that_is_asked_for(masked) -> None:
    """Four heads of 3 features over 8 places: two products forward, and five of that size backward."""
    parts = [torch.randn(2, 4, 8, 3, requires_grad=True) for _ in range(3)]
    found = []
    for counter in (Counter(), Counter(attention=True)):
        with counter:
            functional.scaled_dot_product_attention(*parts, **masked).sum().backward()
        found.append(counter.get_total_flops())

    assert found == [0, 7 * 2 * (2 * 4 * 8 * 8 * 3)]


def test_what_a_script_counts_is_in_its_configuration_and_a_tasks_run_is_as_it_was() -> None:
    assert RunConfig().count_attention is False
    assert RunConfig.from_json("{}").count_attention is False
