"""A laboratory: a small real host with batch norm and dropout, a few real seeds, and a training loop around Kasmina."""

# ruff: noqa: D101 - the names are the vocabulary of these tests

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from contracts.leyline.v1 import leyline_pb2 as leyline
from contracts.leyline.v1.event_pb2 import BlueprintOption, GateEvaluated, SeedTransitioned
from esper.kasmina import lifecycle
from esper.kasmina.gates import Loss
from esper.kasmina.kasmina import Kasmina
from esper.kasmina.settings import SeedSettings
from esper.kasmina.sites import Site, describe_sites


class Host(nn.Module):
    """Vector host with everything that a careless seed could disturb: running statistics and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 6)
        self.norm = nn.BatchNorm1d(6)
        self.act = nn.Tanh()
        self.drop = nn.Dropout(0.2)
        self.second = nn.Linear(6, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(self.drop(self.act(self.norm(self.first(x)))))))


class ResidualSeed(nn.Module):
    """s = h + f(h) with f zero at the start, and dropout and batch norm of its own."""

    residual = True

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.down = nn.Linear(width, 12)
        self.norm = nn.BatchNorm1d(12)
        self.drop = nn.Dropout(0.3)
        self.up = nn.Linear(12, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.up(self.drop(torch.tanh(self.norm(self.down(h)))))


class PlainSeed(nn.Linear):
    """No residual: s is a random linear map of h."""

    def __init__(self) -> None:
        super().__init__(6, 6)


class WrongShape(nn.Linear):
    def __init__(self) -> None:
        super().__init__(6, 5)


class Negation(nn.Module):
    """No parameters, and harm at alpha 1: the activation is turned round and blown up."""

    def forward(self, h: Tensor) -> Tensor:
        return -5.0 * h


class Moody(ResidualSeed):
    """Fails whenever `angry` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.angry = False

    def forward(self, h: Tensor) -> Tensor:
        if self.angry:
            raise RuntimeError("the seed is angry")
        return super().forward(h)


class Clock:
    """Monotonic seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Lab:
    """A host in training, with its Kasmina; `facts` collects everything that Kasmina said."""

    steps = 4
    batch = 16

    def __init__(self, settings: SeedSettings | None = None, seed: int = 3, sites: tuple[str, ...] = ("act", "second")):
        torch.manual_seed(seed)
        self.host = Host()
        self.inputs = torch.randn(self.steps * self.batch, 2)
        self.targets = (self.inputs[:, 0] * self.inputs[:, 1] > 0).long()
        self.probe_inputs = torch.randn(64, 2)
        self.probe_targets = (self.probe_inputs[:, 0] * self.probe_inputs[:, 1] > 0).long()
        self.blueprints: dict[str, Callable[[], nn.Module]] = {
            "residual": ResidualSeed,
            "plain": PlainSeed,
            "wrong_shape": WrongShape,
            "negation": Negation,
            "moody": Moody,
            "identity": nn.Identity,
        }
        self.clock = Clock()
        self.settings = settings or SeedSettings()
        self.sites = describe_sites(self.host, [Site(name, "vector") for name in sites], self.inputs[:4], self._options)
        self.kasmina = self.new_kasmina()
        self.new_optimizer()
        self.facts: list = []
        self.losses: list[Tensor] = []

    def new_optimizer(self) -> None:
        self.optimizer = torch.optim.AdamW(self.host.parameters(), lr=1e-2)
        self.held: dict[str, list[nn.Parameter]] = {}

    def new_kasmina(self) -> Kasmina:
        return Kasmina(
            self.host,
            self.sites,
            self.settings,
            self._build,
            steps_per_epoch=self.steps,
            seed=11,
            monotonic=self.clock,
        )

    def _options(self, _site) -> list[BlueprintOption]:
        return [BlueprintOption(blueprint_id=name, flops_per_sample=7) for name in (*self.blueprints, "injected")]

    def _build(self, blueprint_id, _site, _parameters, generator) -> nn.Module:
        module = self.blueprints[blueprint_id]()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if not name.startswith("up"):
                    parameter.uniform_(-0.5, 0.5, generator=generator)
        return module

    def command(self, operation: str, seed_id: str = "s1", blueprint: str = "", **parameters: float):
        return leyline.AdaptationCommand(
            version=1,
            command_id=str(uuid.UUID(int=7)),
            command_type=leyline.COMMAND_TYPE_SEED,
            target_seed_id=seed_id,
            seed_operation=leyline.CommandSeedOperation(
                operation=leyline.SeedOperation.Value(f"SEED_OPERATION_{operation}"),
                blueprint_id=blueprint,
                parameters=parameters,
            ),
        )

    def germinate(self, blueprint: str = "residual", seed_id: str = "s1") -> list:
        return self.keep(self.kasmina.apply(self.command("GERMINATE", seed_id, blueprint)))

    def keep(self, facts: list) -> list:
        self.facts += facts
        self.sync()
        return facts

    def sync(self) -> None:
        """Give the optimiser the parameters that Kasmina names, and no others beside the host's."""
        wanted = self.kasmina.trainable()
        if {name: [id(p) for p in held] for name, held in self.held.items()} == {
            name: [id(p) for p in parameters] for name, parameters in wanted.items()
        }:
            return
        self.held = wanted
        del self.optimizer.param_groups[1:]
        for parameters in wanted.values():
            self.optimizer.add_param_group({"params": parameters})
        held = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        for parameter in [parameter for parameter in self.optimizer.state if id(parameter) not in held]:
            del self.optimizer.state[parameter]

    def step(self, number: int = 0) -> list:
        rows = slice(number % self.steps * self.batch, (number % self.steps + 1) * self.batch)
        self.optimizer.zero_grad()
        self.kasmina.side_pass(lambda: nn.functional.cross_entropy(self.host(self.inputs[rows]), self.targets[rows]))
        loss = nn.functional.cross_entropy(self.host(self.inputs[rows]), self.targets[rows])
        loss.backward()
        self.losses.append(loss.detach())
        self.kasmina.after_backward()
        self.optimizer.step()
        return self.keep(self.kasmina.advance_step())

    def epoch(self) -> list:
        facts = [fact for number in range(self.steps) for fact in self.step(number)]
        return facts + self.keep(self.kasmina.end_epoch(self.probe))

    def probe(self) -> Loss:
        self.host.eval()
        with torch.no_grad():
            losses = nn.functional.cross_entropy(self.host(self.probe_inputs), self.probe_targets, reduction="none")
        self.host.train()
        return Loss.of(losses)

    def until(self, stage: int, seed_id: str = "s1", epochs: int = 20) -> None:
        """Train until the seed reaches a stage."""
        for _ in range(epochs):
            if self.stage(seed_id) == stage:
                return
            self.epoch()
        raise AssertionError(f"{seed_id} is {lifecycle.name(self.stage(seed_id))} after {epochs} epochs")

    def observe(self, seed_id: str = "s1"):
        return next(o for o in self.kasmina.observations() if o.seed_id == seed_id)

    def stage(self, seed_id: str = "s1") -> int:
        return self.observe(seed_id).stage

    def moves(self, seed_id: str = "s1") -> list[str]:
        return [
            lifecycle.name(fact.to_stage)
            for fact in self.facts
            if isinstance(fact, SeedTransitioned) and fact.seed_id == seed_id
        ]

    def gates(self, seed_id: str = "s1") -> list[tuple[str, bool]]:
        return [
            (lifecycle.gate_name(fact.gate), fact.passed)
            for fact in self.facts
            if isinstance(fact, GateEvaluated) and fact.seed_id == seed_id
        ]

    def hooks(self) -> int:
        return sum(len(module._forward_hooks) for module in self.host.modules())

    def told(self) -> list[str]:
        return [event.event_id for packet in self.kasmina.drain_telemetry() for event in packet.events]


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def make_lab() -> type[Lab]:
    return Lab


@pytest.fixture
def grown(make_lab):
    """Makes a lab whose seed helps: the host stands still, so everything the task needs is learnt through it."""

    def make(**changes) -> Lab:
        lab = make_lab(SeedSettings(**({"harm_z": 1e6, "drift_z": 1e6, "regression_z": 1e6} | changes)))
        lab.epoch()
        lab.germinate("residual")
        return lab

    return make


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors on a shared machine: one thread is faster, and bit-identity is stated for one thread count."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
