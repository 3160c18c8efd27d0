"""A task so small that a whole run takes a fraction of a second, and what it needs to run on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from contracts.leyline.v1.leyline_pb2 import SEED_OPERATION_GERMINATE
from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.testing import KEYS, FakeClock, MemoryLog, seed_command, signed
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import KernelSource, Outside, never
from esper.tolaria.session import RunResult
from esper.tolaria.tasks import Samples, Site, Task
from esper.tolaria.tasks.task import cross_entropy
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld


def make_host() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))


def make_task(**changes: object) -> Task:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(160, 4, generator=generator)
    targets = (inputs @ torch.randn(4, 3, generator=generator) + (inputs**2)[:, :3]).argmax(dim=1)
    parts = [Samples(inputs[a:b], targets[a:b]) for a, b in ((0, 64), (64, 112), (112, 160))]
    settings: dict[str, object] = {
        "name": "tiny",
        "make_host": make_host,
        "sites": (Site("1", "vector"), Site("4", "vector")),
        "epochs": 4,
        "batch_size": 16,
        "learning_rate": 1e-2,
    }
    return Task(train=parts[0], probe=parts[1], test=parts[2], **(settings | changes))  # type: ignore[arg-type]


class Faulty:
    """The cross-entropy, except that the training steps named in `faults` get what it says; probes never do.

    Steps are counted by calls with gradient, so the repetition of one after a rollback is another call, and a fault
    that is listed once strikes once. The very first call is the trainer's measurement of FLOPs; those that find on two
    samples what measuring costs are not counted.
    """

    def __init__(self, faults: dict[int, float]) -> None:
        self.faults = faults
        self.calls = 0

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = cross_entropy(logits, targets)
        if torch.is_grad_enabled() and len(targets) > 2:
            self.calls += 1
            if self.calls in self.faults:
                return loss * self.faults[self.calls]
        return loss


class Bench:
    """Runs a trainer in memory and keeps what it left: `log`, `objects`, `clock`."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.objects = ObjectStore(folder / "objects")
        self.log = MemoryLog(self.clock.clock, objects=self.objects)
        self.verifier = CommandVerifier(KEYS)

    def run(
        self,
        task: Task | None = None,
        should_stop: Callable[[], bool] = never,
        library: KernelSource | None = None,
        **config: object,
    ) -> RunResult:
        settings: dict[str, object] = {"task": "tiny", "policy": "none", "decision_timeout_s": None}
        settings["rate_policy"] = "constant"  # so that a test can say the rate at any step
        settings["growth_data_share"] = 0.0  # 64 samples are too few for the tiny host to grow
        return train(
            RunConfig(**(settings | config)),  # type: ignore[arg-type]
            task or make_task(),
            self.world(self.verifier, library, should_stop),
            run_id="run",
        )

    def world(
        self,
        verifier: CommandVerifier | None = None,
        library: KernelSource | None = None,
        should_stop: Callable[[], bool] = never,
    ) -> LiveWorld:
        return LiveWorld(Outside(self.log, self.clock.clock, self.objects, verifier, library, should_stop))

    def growing(self, after: int, seed_id: str = "s1", blueprint_id: str = "BP009") -> Callable[[], bool]:
        """A `should_stop` that never stops, and sends a germination after so many steps."""
        calls = iter(range(10**6))

        def watch() -> bool:
            if next(calls) == after:
                command = seed_command("run", SEED_OPERATION_GERMINATE, seed_id, blueprint_id, clock=self.clock.clock)
                self.log.send(signed(command))
            return False

        return watch

    def digests(self, occasion: str = "epoch") -> list[bytes]:
        return [body.root for body in self.log.bodies("state_digested") if body.occasion == occasion]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def second_bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "second")


@pytest.fixture
def tiny_task() -> Callable[..., Task]:
    return make_task


@pytest.fixture
def faulty() -> Callable[[dict[int, float]], Faulty]:
    return Faulty
