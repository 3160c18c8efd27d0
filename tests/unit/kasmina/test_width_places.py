"""Where a host can become wider: the committed combinations, and what is refused with what stands in the way."""

# ruff: noqa: D101 - the names say which host it is

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.errors import InvalidInput
from esper.kasmina.sites import Site, describe_sites


def chain(*modules: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*modules)


def vector(*between: nn.Module) -> tuple[nn.Module, Tensor, str]:
    return chain(nn.Linear(5, 6), *between, nn.Linear(6, 3)), torch.randn(8, 5), "vector"


def image(*between: nn.Module, consumer: nn.Module | None = None) -> tuple[nn.Module, Tensor, str]:
    return (
        chain(nn.Conv2d(2, 6, 3, padding=1), *between, consumer or nn.Conv2d(6, 3, 3)),
        torch.randn(8, 2, 8, 8),
        "image",
    )


class Functional(nn.Module):
    """Linear, a function, Linear; convolutions where `signal` says so."""

    def __init__(self, function, *, signal: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Conv1d(2, 6, 3, stride=2) if signal else nn.Linear(5, 6)
        self.down = nn.Conv1d(6, 3, 3) if signal else nn.Linear(6, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.function(self.up(x)))


class Feedforward(nn.Module):
    """The GELU layer of a transformer block, residual, with a LayerNorm before it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(5)
        self.up = nn.Linear(5, 6)
        self.down = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(functional.gelu(self.up(self.norm(x))))


def functional_host(function, *, signal: bool = False) -> tuple[nn.Module, Tensor, str]:
    x = torch.randn(8, 2, 16) if signal else torch.randn(8, 5)
    return Functional(function, signal=signal), x, "image" if signal else "vector"


COMBINATIONS = {
    "linear": vector,
    "linear tanh": lambda: vector(nn.Tanh()),
    "linear relu in place": lambda: vector(nn.ReLU(inplace=True)),
    "linear gelu": lambda: vector(nn.GELU()),
    "linear dropout": lambda: vector(nn.ReLU(), nn.Dropout(0.5)),
    "linear batch norm": lambda: vector(nn.BatchNorm1d(6), nn.ReLU()),
    "linear group norm": lambda: vector(nn.GroupNorm(3, 6), nn.ReLU()),
    "functional tanh": lambda: functional_host(torch.tanh),
    "functional relu": lambda: functional_host(functional.relu),
    "functional gelu": lambda: functional_host(functional.gelu),
    "signal": lambda: functional_host(functional.relu, signal=True),
    "signal, pooled": lambda: functional_host(lambda h: functional.max_pool1d(h, 2), signal=True),
    "conv": image,
    "conv tanh": lambda: image(nn.Tanh()),
    "conv relu": lambda: image(nn.ReLU()),
    "conv gelu": lambda: image(nn.GELU()),
    "conv dropout": lambda: image(nn.Dropout2d(0.5), nn.Dropout(0.1)),
    "conv batch norm": lambda: image(nn.BatchNorm2d(6), nn.ReLU()),
    "conv group norm": lambda: image(nn.GroupNorm(2, 6), nn.ReLU()),
    "conv of one group": lambda: image(nn.GroupNorm(1, 6), nn.ReLU()),
    "conv max pool": lambda: image(nn.MaxPool2d(2)),
    "conv average pool": lambda: image(nn.AvgPool2d(2)),
    "conv adaptive pools": lambda: image(nn.AdaptiveAvgPool2d(4), nn.AdaptiveMaxPool2d(3)),
    "conv flatten": lambda: image(nn.MaxPool2d(2), nn.Flatten(), consumer=nn.Linear(6 * 16, 3)),
    "conv pooled flat": lambda: image(nn.AdaptiveAvgPool2d(1), nn.Flatten(), consumer=nn.Linear(6, 3)),
    "conv norm flatten": lambda: image(nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), consumer=nn.Linear(6 * 64, 3)),
    "transformer block": lambda: (Feedforward(), torch.randn(8, 4, 5), "token"),
}


def ends(host: nn.Module) -> tuple[str, str]:
    names = [name for name, each in host.named_modules() if isinstance(each, nn.Linear | nn.Conv1d | nn.Conv2d)]
    return names[0], names[-1]


def described(host: nn.Module, x: Tensor, kind: str, *others: Site):
    producer, consumer = ends(host)
    return describe_sites(host, [*others, Site(producer, kind, consumer=consumer)], x, lambda _: [])[-1]


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_committed_combination_is_a_place_that_can_become_wider(name):
    host, x, kind = COMBINATIONS[name]()
    before = {key: tensor.clone() for key, tensor in host.state_dict().items()}

    site = described(host, x, kind)

    producer, consumer = (host.get_submodule(each) for each in ends(host))
    assert site.width.units == 6
    assert list(site.width.incoming) == list(producer.weight.shape[1:])
    assert site.width.outgoing[0] == len(consumer.weight)
    assert site.width.outgoing[1] * 6 == consumer.weight.shape[1]
    assert site.width.parameters_per_unit * 6 == producer.weight.numel() + 6 + consumer.weight.numel() + sum(
        host.get_submodule(norm).weight.numel() * 2 for norm in site.width.norms
    )
    assert all(torch.equal(tensor, before[key]) for key, tensor in host.state_dict().items())
    assert not any("forward" in vars(module) for module in host.modules())


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.side = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.kind = "add"

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.up(x))
        if self.kind == "mean":
            return self.down(h) + h.mean(dim=1, keepdim=True)
        return self.down(h) + (h if self.kind == "add" else self.side(h))


def skip(kind: str) -> tuple[nn.Module, Tensor, str, str]:
    host = Skip()
    host.kind = kind
    return host, torch.randn(8, 5), "up", "down"


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.down(torch.relu(self.up(x)))))


class Behind(nn.Module):
    """The units are the second half of what the consumer takes in, or the first."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.up, self.other, self.down = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(12, 3)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        pair = [self.other(x), self.up(x)] if self.last else [self.up(x), self.other(x)]
        return self.down(torch.cat(pair, 1))


def tied() -> nn.Module:
    host = chain(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    host[2].weight = host[0].weight
    return host


def plain(*between: nn.Module, first: nn.Module | None = None, last: nn.Module | None = None):
    return (
        chain(first or nn.Linear(5, 6), *between, last or nn.Linear(6, 3)),
        torch.randn(8, 5),
        "0",
        str(len(between) + 1),
    )


REFUSALS = {
    "layer norm": (lambda: plain(nn.LayerNorm(6)), "1 (LayerNorm) stands in the way"),
    "softmax": (lambda: plain(nn.Tanh(), nn.Softmax(dim=1)), "2 (Softmax) mixes the units"),
    "functional softmax": (
        lambda: (Functional(lambda h: torch.softmax(h, 1)), torch.randn(8, 5), "up", "down"),
        "a function between them, such as a softmax",
    ),
    "another layer between": (lambda: plain(nn.Linear(6, 6)), "1 (Linear) stands in the way"),
    "prelu": (lambda: plain(nn.PReLU(6)), "1 (PReLU) stands in the way"),
    "plain norm": (lambda: plain(nn.BatchNorm1d(6, affine=False)), "1 has no weight and bias of its own"),
    "skip": (lambda: skip("add"), "what up gives is used elsewhere than by down"),
    "hidden skip": (lambda: skip("mean"), "what up gives is used elsewhere than by down"),
    "two consumers": (lambda: skip("side"), "side (Linear) stands in the way"),
    "runs twice": (lambda: (Twice(), torch.randn(8, 6), "up", "down"), "down runs 2 times"),
    "tied": (lambda: (tied(), torch.randn(8, 6), "0", "2"), "0 shares its weights with 2"),
    "wrong order": (lambda: (plain()[0], torch.randn(8, 5), "1", "0"), "0 runs before 1"),
    "first of two": (
        lambda: (Behind(last=False), torch.randn(8, 5), "up", "down"),
        "mixes the units, or does not keep",
    ),
    "no such module": (lambda: (plain()[0], torch.randn(8, 5), "0", "7"), "there is no submodule '7'"),
    "no layer": (lambda: (plain(nn.Tanh())[0], torch.randn(8, 5), "1", "2"), "1 is a Tanh"),
    "weight norm": (
        lambda: plain(first=nn.utils.parametrizations.weight_norm(nn.Linear(5, 6))),
        "a producer is a plain nn.Linear",
    ),
    "grouped": (
        lambda: (chain(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3, groups=2)), torch.randn(8, 2, 8, 8), "0", "1"),
        "1 has 2 groups",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_place_that_cannot_become_wider_is_refused_with_what_stands_in_the_way(name):
    make, reason = REFUSALS[name]
    torch.manual_seed(0)
    host, x, producer, consumer = make()

    with pytest.raises(InvalidInput) as error:
        describe_sites(host, [Site(producer, "vector", consumer=consumer)], x, lambda _: [])

    assert reason in str(error.value)
    assert f"width site {producer!r} with consumer {consumer!r}: " in str(error.value)
    assert not any("forward" in vars(module) for module in host.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.modules())


def test_units_that_come_last_of_what_the_consumer_gets_are_a_place():
    site = describe_sites(Behind(last=True), [Site("up", "vector", consumer="down")], torch.randn(8, 5), lambda _: [])[
        0
    ]

    assert (site.width.units, list(site.width.outgoing)) == (6, [3, 1])


def test_width_places_come_after_all_others_and_know_which_of_them_widen():
    host, x, kind = COMBINATIONS["conv norm flatten"]()

    sites = [Site("0", kind, consumer="4"), Site("1", kind), Site("3", "vector"), Site("4", "vector")]
    found = describe_sites(host, sites, x, lambda _: [])

    assert [(each.seed_id, each.site, each.HasField("width")) for each in found] == [
        ("s1", "1", False),
        ("s2", "3", False),
        ("s3", "4", False),
        ("s4", "0", True),
    ]
    assert list(found[3].width.between) == ["s1", "s2"]
    assert (list(found[3].shape), found[3].width.flops_per_unit) == ([6, 8, 8], 2 * (18 * 64 + 3 * 64))


def test_a_kind_that_the_producer_does_not_give_and_a_place_named_twice_are_refused():
    host, x, _ = COMBINATIONS["linear"]()
    with pytest.raises(InvalidInput, match="gives a vector activation, and is named image"):
        describe_sites(host, [Site("0", "image", consumer="1")], x, lambda _: [])
    with pytest.raises(InvalidInput, match="named 2 times"):
        describe_sites(host, [Site("0", "vector", consumer="1")] * 2, x, lambda _: [])
