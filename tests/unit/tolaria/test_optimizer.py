"""Groups come and go with the seeds; whoever stays keeps state and settings to the last bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from esper.testing import FakeClock
from esper.tolaria.optimizer import GroupedOptimizer
from esper.tolaria.state import flatten, unflatten


def make(host: nn.Module, kind: str = "adamw") -> GroupedOptimizer:
    return GroupedOptimizer(
        kind, list(host.parameters()), rate=0.05, weight_decay=0.1, momentum=0.9, monotonic=FakeClock().clock.monotonic
    )


def learn(optimizer: GroupedOptimizer, *modules: nn.Module) -> None:
    optimizer.zero_grad()
    inputs = torch.linspace(-1, 1, 12).view(4, 3)
    for module in modules:
        inputs = module(inputs)
    inputs.square().mean().backward()
    optimizer.step()


def held(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters())


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_without_seeds_it_is_the_plain_optimiser(kind: str) -> None:
    torch.manual_seed(1)
    host = nn.Linear(3, 3)
    twin = copy.deepcopy(host)
    plain = (
        torch.optim.AdamW(twin.parameters(), lr=0.05, weight_decay=0.1, fused=True)
        if kind == "adamw"
        else torch.optim.SGD(twin.parameters(), lr=0.05, weight_decay=0.1, momentum=0.9, fused=True)
    )
    optimizer = make(host, kind)
    for _ in range(5):
        learn(optimizer, host)
        plain.zero_grad()
        twin(torch.linspace(-1, 1, 12).view(4, 3)).square().mean().backward()
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(host.parameters(), twin.parameters(), strict=True))


@pytest.mark.requirement("R-TOL-17")
def test_a_seed_that_comes_and_goes_leaves_the_host_state_alone() -> None:
    host, seed = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = make(host)
    learn(optimizer, host)
    before = flatten(optimizer.state()["groups"][0])
    changes = optimizer.sync({"s1": held(seed)}, {"s1": seed})
    assert [(each.change, each.group, each.parameters) for each in changes] == [("group_added", "s1", 12)]
    assert optimizer.names == ["host", "s1"]
    learn(optimizer, seed)
    changes = optimizer.sync({}, {})
    assert [(each.change, each.group) for each in changes] == [("group_removed", "s1")]
    assert optimizer.names == ["host"]
    assert not any(parameter in optimizer.torch.state for parameter in seed.parameters())
    after = flatten(optimizer.state()["groups"][0])
    assert before.scalars == after.scalars
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in before.tensors)


def test_a_paused_seed_keeps_its_state_and_does_not_move() -> None:
    host, seed = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = make(host)
    optimizer.sync({"s1": held(seed)}, {"s1": seed})
    learn(optimizer, host, seed)
    weights = seed.weight.detach().clone()
    assert optimizer.sync({}, {"s1": seed}) == []
    learn(optimizer, host, seed)  # its parameters get a gradient, as a fossil's in the host's graph would
    assert torch.equal(seed.weight, weights)
    state = optimizer.torch.state[seed.weight]
    assert float(state["step"]) == 1.0
    optimizer.sync({"s1": held(seed)}, {"s1": seed})
    learn(optimizer, host, seed)
    assert not torch.equal(seed.weight, weights)
    assert float(state["step"]) == 2.0


def test_a_new_life_in_the_same_slot_starts_without_the_old_state() -> None:
    host, first, second = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
    optimizer = make(host)
    optimizer.sync({"s1": held(first)}, {"s1": first})
    learn(optimizer, host, first)
    changes = optimizer.sync({"s1": held(second)}, {"s1": second})
    assert [each.change for each in changes] == ["group_removed", "group_added"]
    assert second.weight not in optimizer.torch.state


@pytest.mark.requirement("R-TOL-17")
def test_a_failed_change_leaves_the_former_optimiser() -> None:
    host, seed = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = make(host)
    optimizer.sync({"s1": held(seed)}, {"s1": seed})
    learn(optimizer, host, seed)
    before = flatten(optimizer.state())
    # s1 goes, then s2 fails: the host's own weights cannot be in two groups. s1 has to be back.
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.sync({"s2": held(host)}, {"s2": host})
    after = flatten(optimizer.state())
    assert optimizer.names == ["host", "s1"]
    assert before.scalars == after.scalars
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in before.tensors)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_restored_state_goes_on_bit_for_bit(kind: str) -> None:
    torch.manual_seed(2)
    host, seed = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = make(host, kind)
    optimizer.sync({"s1": held(seed)}, {"s1": seed})
    learn(optimizer, host, seed)
    saved = flatten(optimizer.state())
    host_twin, seed_twin = copy.deepcopy(host), copy.deepcopy(seed)
    other = make(host_twin, kind)
    other.load_state(unflatten(saved), {"s1": seed_twin})
    for _ in range(3):
        learn(optimizer, host, seed)
        learn(other, host_twin, seed_twin)
    pairs = zip(
        [*host.parameters(), *seed.parameters()], [*host_twin.parameters(), *seed_twin.parameters()], strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_settings_of_one_group_change_alone() -> None:
    host, seed = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = make(host)
    optimizer.sync({"s1": held(seed)}, {"s1": seed})
    change = optimizer.set_hyperparameter("s1", "weight_decay", 0.5)
    assert (change.group, dict(change.hyperparameters)) == ("s1", {"weight_decay": 0.5})
    assert [group["weight_decay"] for group in optimizer.groups] == [0.1, 0.5]
    learn(optimizer, host, seed)
    other = make(host)
    other.load_state(unflatten(flatten(optimizer.state())), {"s1": seed})
    assert [group["weight_decay"] for group in other.groups] == [0.1, 0.5]
