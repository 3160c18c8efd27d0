"""The source of a network: what it reads like, that it computes the same, and what cannot be written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from esper.errors import InvalidInput
from esper.tolaria.grown_source import source_of
from esper.tolaria.hosts import MLP, ResNetLite, TransformerLite


class Table(nn.Module):
    """Numbers and categories in a dict, and a mask that is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.kinds, self.head = nn.Linear(2, 3), nn.Embedding(5, 3), nn.Linear(3, 1)
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0]), persistent=False)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        hidden = self.numbers(x["numbers"]) + self.kinds(x["kinds"]).sum(1)
        return self.head(hidden.relu() * self.mask)


class Pair(Table):
    """Two arguments, two outputs, and a layer that runs twice."""

    def forward(self, first: Tensor, second: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        hidden = self.numbers(first) + self.numbers(second["numbers"])
        return self.head(hidden * self.mask), hidden


ROWS = {"numbers": torch.randn(4, 2), "kinds": torch.arange(12).view(4, 3) % 5}
NETWORKS: dict[str, tuple[nn.Module, Any]] = {
    "mlp": (MLP(2, [6, 5], 3), torch.randn(4, 2)),
    "resnet": (ResNetLite(3, 4, 10), torch.rand(3, 3, 8, 8)),
    "transformer": (TransformerLite(97, 12, 8, 2, heads=2, hidden=16), torch.randint(0, 97, (3, 12))),
    "norm and dropout": (
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, 1)),
        torch.randn(5, 3),
    ),
    "one layer": (nn.Linear(3, 2), torch.randn(4, 3)),
    "lstm": (nn.LSTM(4, 5, batch_first=True), torch.randn(3, 2, 4)),
    "dict": (Table(), ROWS),
    "pair": (Pair(), (ROWS["numbers"], ROWS)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_computes_what_the_network_computes_for_any_number_of_samples(name: str) -> None:
    network, inputs = NETWORKS[name]
    network.eval()
    source = source_of(network, inputs, "A network.")
    names: dict[str, Any] = {}
    exec(source, names)
    made = names["network"]
    made.load_state_dict(network.state_dict())

    more = pytree.tree_map(lambda each: torch.cat([each, each.flip(0)]), inputs)
    arguments = more if isinstance(more, tuple) else (more,)
    found, wanted = (pytree.tree_leaves(each(*arguments)) for each in (made.eval(), network))
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    assert "esper" not in source


def test_it_reads_as_a_person_would_write_it() -> None:
    chain = source_of(
        NETWORKS["norm and dropout"][0].eval(), torch.randn(5, 3), "A network.", ["Two lines", "of words"]
    )
    blocks = source_of(NETWORKS["transformer"][0].eval(), NETWORKS["transformer"][1], "A network.")

    assert chain.startswith('"""A network.\n\nTwo lines\nof words\n"""\n')
    assert "network = nn.Sequential(\n    nn.Linear(in_features=3, out_features=4, bias=True),\n" in chain
    assert blocks.count("class TransformerBlock") == 1  # both blocks do the same
    assert "        self.qkv = nn.Linear(in_features=8, out_features=24, bias=True)\n" in blocks
    assert "        return add_1\n" in blocks
    assert "    def forward(self, ids):\n        if ids.shape[1:] != (12,):\n            raise ValueError" in blocks
    assert "    def forward(self, inputs):\n        x_numbers = inputs['numbers']\n" in source_of(
        NETWORKS["dict"][0].eval(), ROWS, "A network."
    )


class Branching(nn.Module):
    """What it does depends on the numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


class Masked(nn.Module):
    """A large constant that is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(70, 70), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.mask


@pytest.mark.parametrize(
    ("network", "inputs", "said"),
    [
        (Branching(), torch.randn(3), "torch.export cannot follow Branching: "),
        (Masked(), torch.randn(3, 70), "mask has 4900 numbers that are in no state dictionary"),
        (nn.Linear(3, 2), [1.0], "to trace Linear its inputs must be a tensor, or a tuple or dict of tensors"),
        (nn.Linear(3, 2), torch.randn(3, 4), "torch.export cannot follow Linear"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(network: nn.Module, inputs: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        source_of(network.eval(), inputs, "A network.")

    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
