"""Width seeds: a life in the host's own layers, bit-equal absorption, neighbours, going back to another structure."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.leyline.v1 import leyline_pb2 as leyline
from contracts.leyline.v1.event_pb2 import GateEvaluated, SeedAbsorbed, SeedTransitioned
from esper.errors import CorruptState, InvalidInput
from esper.karn import catalogue
from esper.kasmina import lifecycle
from esper.kasmina.commands import CommandRefused
from esper.kasmina.gates import Loss
from esper.kasmina.kasmina import Kasmina
from esper.kasmina.settings import SeedSettings
from esper.kasmina.sites import Site, describe_sites
from esper.tolaria.optimizer import GroupedOptimizer

from .test_width_places import COMBINATIONS, ends

POOL = ("BP003", "BP051")
EASY = {"harm_z": 1e6, "drift_z": 1e6, "regression_z": 1e6, "benefit_z": 0.0} | {
    "blend_epochs": 1,
    "training_epochs": 1,
    "probation_patience": 50,
}


def mlp() -> nn.Module:
    """Two places that widen, side by side, with what a careless seed could disturb between them."""
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2)),
        *(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2)),
    )


class Garden:
    """A host in training with its Kasmina: `s1` behind the tanh, `s2` widens the first layer, `s3` the second."""

    sites = (Site("2", "vector"), Site("0", "vector", consumer="4"), Site("4", "vector", consumer="6"))
    steps, batch = 3, 12

    def __init__(
        self, host: nn.Module | None = None, sites: tuple[Site, ...] | None = None, pool=POOL, **settings
    ) -> None:
        self.host = mlp() if host is None else host
        data = torch.Generator().manual_seed(4)
        self.inputs = torch.randn(self.steps * self.batch, 3, generator=data)
        self.targets = (self.inputs.prod(dim=1) > 0).long()
        options = partial(catalogue.options, pool=pool)
        described = describe_sites(self.host, sites or self.sites, self.inputs[:8], options)
        self.kasmina = Kasmina(
            self.host,
            described,
            SeedSettings(**(EASY | settings)),
            catalogue.build,
            steps_per_epoch=self.steps,
            seed=5,
            monotonic=float,
            options=options,
        )
        self.optimizer = GroupedOptimizer(
            "adamw", list(self.host.parameters()), rate=1e-2, weight_decay=0.01, momentum=0.9, monotonic=float
        )
        self.facts: list = []
        torch.manual_seed(9)

    def command(self, operation: str, seed_id: str, blueprint: str = "BP051", **parameters: float) -> list:
        payload = leyline.CommandSeedOperation(
            operation=leyline.SeedOperation.Value(f"SEED_OPERATION_{operation}"),
            blueprint_id=blueprint,
            parameters=parameters,
        )
        command = leyline.AdaptationCommand(
            version=1, command_type=leyline.COMMAND_TYPE_SEED, target_seed_id=seed_id, seed_operation=payload
        )
        return self.keep(self.kasmina.apply(command))

    def keep(self, facts: list) -> list:
        self.facts += facts
        self.optimizer.absorb(self.kasmina.drain_absorbed())
        self.optimizer.sync(self.kasmina.trainable(), self.kasmina.modules())
        return facts

    def step(self, number: int) -> None:
        rows = slice(number * self.batch, (number + 1) * self.batch)
        self.host.train()
        self.optimizer.zero_grad()
        self.kasmina.side_pass(lambda: functional.cross_entropy(self.host(self.inputs[rows]), self.targets[rows]))
        functional.cross_entropy(self.host(self.inputs[rows]), self.targets[rows]).backward()
        self.kasmina.after_backward()
        self.optimizer.step()
        self.keep(self.kasmina.advance_step())

    def epoch(self) -> None:
        for number in range(self.steps):
            self.step(number)
        self.keep(self.kasmina.end_epoch(self.probe))

    def probe(self) -> Loss:
        return Loss.of(functional.cross_entropy(self.outputs(), self.targets, reduction="none"))

    def outputs(self) -> Tensor:
        self.host.eval()
        with torch.no_grad():
            outputs: Tensor = self.host(self.inputs)
        return outputs

    def until(self, stage: int, seed_id: str) -> None:
        for _ in range(12):
            if self.stage(seed_id) == stage:
                return
            self.epoch()
        raise AssertionError(f"{seed_id} is {lifecycle.name(self.stage(seed_id))}")

    def stage(self, seed_id: str) -> int:
        return next(each.stage for each in self.kasmina.observations() if each.seed_id == seed_id)

    def grow(self, seed_id: str, **parameters: float) -> SeedAbsorbed:
        """A whole life, up to absorption."""
        self.command("GERMINATE", seed_id, **parameters)
        self.until(lifecycle.PROBATIONARY, seed_id)
        return self.absorb(seed_id)

    def absorb(self, seed_id: str) -> SeedAbsorbed:
        """What an accepted fossilize command does."""
        fact = self.keep(self.kasmina._moves.fossilize(self.kasmina._slots[seed_id], "test"))[-1]
        assert isinstance(fact, SeedAbsorbed)
        return fact

    def moves(self, seed_id: str) -> list[str]:
        found = [each for each in self.facts if isinstance(each, SeedTransitioned) and each.seed_id == seed_id]
        return [lifecycle.name(each.to_stage) for each in found]

    def sizes(self) -> list[int]:
        return [self.host[0].out_features, self.host[4].out_features]


def plain(host: nn.Module) -> bool:
    return not any("forward" in vars(module) for module in host.modules())


def test_a_width_seed_lives_through_every_stage_and_becomes_the_hosts_own_units():
    garden = Garden()
    before = sum(each.numel() for each in garden.host.parameters())

    garden.command("GERMINATE", "s2", factor=0.5)
    garden.until(lifecycle.PROBATIONARY, "s2")
    garden.epoch()
    fact = garden.command("FOSSILIZE", "s2")[-1]

    stages = ["GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED"]
    assert garden.moves("s2") == stages
    assert all(each.passed for each in garden.facts if isinstance(each, GateEvaluated))
    assert (fact.units_before, fact.units, fact.opened, fact.consumer) == (6, 9, "s4", "4")
    assert garden.sizes() == [9, 5]
    assert sum(each.numel() for each in garden.host.parameters()) - before == fact.parameters == 3 * (3 + 1 + 2 + 5)
    assert (plain(garden.host), garden.kasmina.modules(), garden.kasmina.trainable()) == (True, {}, {})
    site = garden.kasmina.sites()["s4"]
    assert (site.width.units, list(site.shape), site.options[0].parameters) == (9, [9], 9 * (3 + 1 + 2 + 5))
    assert list(garden.kasmina.sites()["s1"].shape) == [9]
    assert not garden.kasmina.sites()["s2"].options
    assert garden.grow("s4").units == 18


def test_in_training_the_host_is_bit_for_bit_that_of_a_run_without_the_seed():
    seeded, alone = Garden(training_epochs=3), Garden()
    seeded.command("GERMINATE", "s2")
    torch.manual_seed(0)
    for number in (0, 1, 2, 0):
        seeded.step(number)
    draws = torch.rand(3)
    torch.manual_seed(0)
    for number in (0, 1, 2, 0):
        alone.step(number)

    assert seeded.stage("s2") == lifecycle.TRAINING
    module = seeded.kasmina.modules()["s2"]
    assert float(module.consumer_weight.detach().abs().sum()) > 0
    assert torch.equal(draws, torch.rand(3))
    others = alone.host.state_dict()
    assert all(torch.equal(tensor, others[name]) for name, tensor in seeded.host.state_dict().items())


def attached(host: nn.Module, x: Tensor, kind: str) -> tuple[Kasmina, nn.Module]:
    """A seed at the host's one place, mixed in at alpha 1, whose weights have learnt something, at random."""
    producer, consumer = ends(host)
    options = partial(catalogue.options, pool=POOL)
    sites = describe_sites(host, [Site(producer, kind, consumer=consumer)], x, options)
    kasmina = Kasmina(
        host, sites, SeedSettings(), catalogue.build, steps_per_epoch=1, seed=5, monotonic=float, options=options
    )
    payload = leyline.CommandSeedOperation(operation=leyline.SEED_OPERATION_GERMINATE, blueprint_id="BP051")
    command = leyline.AdaptationCommand(
        version=1, command_type=leyline.COMMAND_TYPE_SEED, target_seed_id="s1", seed_operation=payload
    )
    kasmina.apply(command)
    slot = kasmina._slots["s1"]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in slot.occupant().module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    for stage in (lifecycle.TRAINING, lifecycle.BLENDING, lifecycle.SHADOWING, lifecycle.PROBATIONARY):
        kasmina._moves.move(slot, stage, "test")
    return kasmina, slot.occupant().module


def passes(host: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs in evaluation and training mode, the gradient of the input, running statistics."""
    host.eval()
    found = [host(x).detach()]
    host.train()
    torch.manual_seed(2)
    x = x.clone().requires_grad_()
    outputs = host(x)
    outputs.square().sum().backward()
    return [*found, outputs.detach(), x.grad, *(each.clone() for each in host.buffers())]


@pytest.mark.parametrize("name", COMBINATIONS)
def test_absorbing_changes_no_bit_of_what_the_host_computes(name):
    host, x, kind = COMBINATIONS[name]()
    narrow = copy.deepcopy(host).eval()(x)
    kasmina, module = attached(host, x, kind)
    mixed = host.eval()(x)
    with kasmina._grafts.passing(without=[kasmina._slots["s1"]]):
        without = host.eval()(x)
    state = copy.deepcopy((host.state_dict(), module.state_dict()))
    before = passes(host, x)
    host.load_state_dict(state[0])
    module.load_state_dict(state[1])

    kasmina._moves.fossilize(kasmina._slots["s1"], "test")

    assert torch.equal(without, narrow)
    assert not torch.allclose(mixed, narrow)
    assert torch.equal(host.eval()(x), mixed)
    assert plain(host)
    after = passes(host, x)
    assert all(torch.equal(*pair) for pair in zip(before[:3], after[:3], strict=True))


def test_two_seeds_at_one_layer_live_side_by_side_and_are_absorbed_one_after_the_other():
    garden = Garden()
    garden.command("GERMINATE", "s2")
    garden.epoch()
    garden.command("GERMINATE", "s3", factor=0.4)
    garden.until(lifecycle.PROBATIONARY, "s3")
    before = garden.outputs()

    for seed_id in ("s3", "s2"):
        garden.absorb(seed_id)
        assert torch.equal(garden.outputs(), before)

    assert garden.sizes() == [12, 7]
    assert torch.equal(garden.host[4].weight[5:, 6:], torch.zeros(2, 6))
    garden.epoch()
    assert plain(garden.host)


def test_a_seed_beside_one_that_is_absorbed_goes_on_with_zeros_for_what_is_new():
    garden = Garden()
    garden.command("GERMINATE", "s2")
    garden.epoch()
    garden.command("GERMINATE", "s3")
    garden.until(lifecycle.PROBATIONARY, "s2")
    before = garden.outputs()
    garden.absorb("s2")

    assert torch.equal(garden.outputs(), before)
    assert garden.kasmina.modules()["s3"].producer_weight.shape == (5, 12)
    garden.until(lifecycle.PROBATIONARY, "s3")
    assert all(each.passed for each in garden.facts if isinstance(each, GateEvaluated))


def save(garden: Garden):
    return copy.deepcopy((garden.host.state_dict(), garden.kasmina.state_dict(), garden.optimizer.state()))


def load(garden: Garden, saved) -> None:
    garden.kasmina.become(saved[1])
    garden.host.load_state_dict(saved[0])
    garden.kasmina.load_state_dict(saved[1])
    garden.optimizer.load_state(saved[2], garden.kasmina.modules())
    garden.optimizer.sync(garden.kasmina.trainable(), garden.kasmina.modules())


def test_a_saved_state_brings_its_structure_back_into_any_other():
    garden, stops = Garden(), []
    garden.command("GERMINATE", "s3")
    garden.until(lifecycle.BLENDING, "s3")
    for seed_id in ("s2", "s4", "s3"):
        stops.append((save(garden), garden.outputs(), garden.sizes()))
        if seed_id == "s3":
            garden.until(lifecycle.PROBATIONARY, "s3")
            garden.absorb("s3")
        else:
            garden.grow(seed_id, factor=0.5)
    stops.append((save(garden), garden.outputs(), garden.sizes()))

    fresh = Garden()
    for number in (3, 0, 2, 1, 3, 1, 0):
        for each in (garden, fresh):
            saved, outputs, sizes = stops[number]
            load(each, saved)
            assert torch.equal(each.outputs(), outputs)
            assert each.sizes() == sizes
            assert each.kasmina.state_dict()["scalars"] == saved[1]["scalars"]
    assert list(stops[3][0][1]["scalars"]["absorbed"]) == [["s2", 3], ["s4", 4], ["s3", 5]]
    for each in (garden, fresh):
        torch.manual_seed(0)
        each.epoch()
    assert torch.equal(garden.outputs(), fresh.outputs())


def test_a_state_of_another_host_is_refused():
    garden = Garden()
    saved = garden.kasmina.state_dict()
    saved["scalars"]["absorbed"] = [["s1", 3]]

    with pytest.raises(CorruptState, match="absorbed 3 units of s1, which widens nothing here"):
        garden.kasmina.become(saved)


def test_a_host_without_the_layer_that_takes_the_units_in_is_refused_by_name():
    sites = list(Garden().kasmina.sites().values())[1:2]
    other = nn.Sequential(nn.Linear(3, 6))

    with pytest.raises(InvalidInput, match="there is no site '4' in Sequential"):
        Kasmina(other, sites, SeedSettings(), catalogue.build, steps_per_epoch=1, seed=0, monotonic=lambda: 0.0)


def test_a_seed_behind_units_and_one_that_widens_them_exclude_each_other():
    garden = Garden()
    garden.command("GERMINATE", "s1", "BP003")
    with pytest.raises(
        CommandRefused, match="place_taken: nothing can grow at s2 now: s1 holds a seed between 0 and 4"
    ):
        garden.command("GERMINATE", "s2")
    garden.command("GERMINATE", "s3")

    other = Garden()
    other.command("GERMINATE", "s2")
    with pytest.raises(CommandRefused, match="place_taken: nothing can grow at s1 now: s2 is widening"):
        other.command("GERMINATE", "s1", "BP003")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"host_rule": "detached"}, "host_rule is detached"),
        ({"training_rule": "straight_through"}, "training_rule is straight_through"),
        ({"freeze_fossils": True}, "freeze_fossils is set"),
    ],
)
def test_rules_that_new_units_of_a_layer_cannot_follow_refuse_them(settings, reason):
    with pytest.raises(CommandRefused, match=reason):
        Garden(**settings).command("GERMINATE", "s2")


def test_a_seed_that_is_culled_leaves_the_host_plain_and_its_place_open():
    garden = Garden(embargo_epochs=0)
    garden.command("GERMINATE", "s2")
    garden.until(lifecycle.PROBATIONARY, "s2")
    assert not plain(garden.host)

    garden.command("CULL", "s2")

    assert plain(garden.host)
    assert garden.sizes() == [6, 5]
    garden.until(lifecycle.DORMANT, "s2")
    assert garden.grow("s2").units == 12


def test_direct_insertion_absorbs_at_once():
    garden = Garden(lifecycle="direct")
    before = garden.outputs()
    garden.command("GERMINATE", "s2")

    assert garden.sizes() == [12, 5]
    assert torch.allclose(garden.outputs(), before, atol=1e-6)
    garden.epoch()
    assert float(garden.host[4].weight.detach()[:, 6:].abs().min()) > 0


def test_the_output_of_new_units_is_measured_in_evaluation():
    garden = Garden()
    garden.command("GERMINATE", "s2")
    garden.until(lifecycle.BLENDING, "s2")

    ratio = next(each.activation_norm_ratio for each in garden.kasmina.observations() if each.seed_id == "s2")

    assert 0.0 < ratio < 1.0


def test_what_grows_at_a_place_goes_by_its_kind():
    garden = Garden()
    with pytest.raises(CommandRefused, match="BP003 cannot grow at s2; BP051 can"):
        garden.command("GERMINATE", "s2", "BP003")
    with pytest.raises(CommandRefused, match="BP051 cannot grow at s1; BP003 can"):
        garden.command("GERMINATE", "s1", "BP051")
    with pytest.raises(CommandRefused, match=r"factor = 3 is outside \[0.25, 2\]"):
        garden.command("GERMINATE", "s2", factor=3.0)


def test_what_a_run_leaves_is_a_plain_host_with_the_units_that_live_in_it():
    garden = Garden(training_epochs=1)
    garden.command("GERMINATE", "s3", factor=0.4)
    garden.epoch()
    garden.command("GERMINATE", "s2")
    garden.until(lifecycle.BLENDING, "s2")
    garden.step(0)
    assert {garden.stage("s2"), 0 < garden.kasmina._slots["s2"].alpha < 1} == {lifecycle.BLENDING, True}
    before = garden.outputs()

    network = garden.kasmina.grown()

    assert network is garden.host
    assert (plain(network), garden.sizes()) == (True, [12, 7])
    assert torch.equal(garden.outputs(), before)
