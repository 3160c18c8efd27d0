"""Runs in memory with all that a run can meet: growth, culls, a person's commands, faults, rollbacks, slow deciders."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.history import Recorded
from esper.kasmina.settings import SeedSettings
from esper.leyline.envelope import Event, body_name
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import Signed
from esper.leyline.verifier import CommandVerifier
from esper.testing import KEYS, REAL_CLOCK, MemoryLog, command_event, seed_command, signed
from esper.tolaria.config import RunConfig
from esper.tolaria.fork import fork_run
from esper.tolaria.forking import read_change
from esper.tolaria.ports import Clock
from esper.tolaria.replay import Replayed, replay_run
from esper.tolaria.result import RunResult
from esper.tolaria.resume import resume_run
from esper.tolaria.tasks import Samples, Site, Task
from esper.tolaria.tasks.task import cross_entropy
from esper.tolaria.train import train

Command = Callable[[str], Event]

EPOCHS = 10
STEPS = 3
QUICK = SeedSettings(
    training_epochs=1,
    blend_epochs=1,
    embargo_epochs=1,
    probation_patience=2,
    harm_z=50.0,  # so that seeds of a network this small get through the gates now and then
    drift_z=50.0,
    benefit_z=0.0,
    regression_z=50.0,
)


def tiny(**changes: Any) -> Task:
    """A task whose whole run takes a second, with dropout so that the random streams count."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(120, 4, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    parts = [Samples(inputs[a:b], targets[a:b]) for a, b in ((0, 48), (48, 84), (84, 120))]
    layers = (nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    settings: dict[str, Any] = {
        "name": "tiny",
        "make_host": lambda: nn.Sequential(*(type(each)(*_sizes(each)) for each in layers)),
        "sites": (Site("1", "vector"), Site("4", "vector")),
        "epochs": EPOCHS,
        "batch_size": 16,
        "learning_rate": 1e-2,
    }
    return Task(train=parts[0], probe=parts[1], test=parts[2], **(settings | changes))


def _sizes(layer: nn.Module) -> tuple[Any, ...]:
    if isinstance(layer, nn.Linear):
        return (layer.in_features, layer.out_features)
    return (0.1,) if isinstance(layer, nn.Dropout) else ()


class Fault:
    """A loss that is no number at the calls named, counted over calls with gradient: it strikes once, like chance."""

    def __init__(self, calls: Iterable[int]) -> None:
        self._calls = set(calls)
        self._made = 0

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = cross_entropy(logits, targets)
        if torch.is_grad_enabled():
            self._made += 1
            if self._made in self._calls:
                return loss * math.nan
        return loss


class Killed(BaseException):
    """The trainer's process is gone: nothing is caught, nothing is tidied up."""


class Scripted(MemoryLog):
    """A log that delivers a person's commands when the run asks for the so-many-th time.

    The process dies at event `dies_at`, counted over all that lies on the log, `told` says whether it was written.
    """

    dies_at: int | None = None
    told: bool = True

    def __init__(self, objects: ObjectStore, script: dict[int, Command], events: Iterable[Event] = ()) -> None:
        super().__init__(objects=objects, events=events)
        self._script = script
        self._asked = 0
        self.requests: list[tuple[Event, Signed]] = []

    def publish(self, event: Event) -> None:
        """Append the event, if the process lives that long."""
        dies = self.dies_at is not None and len(self.events) >= self.dies_at
        if not dies or self.told:
            super().publish(event)
        if dies:
            raise Killed

    def take_commands(self) -> list[Signed]:
        """What is due now."""
        due = self._script.get(self._asked)
        self._asked += 1
        if due is not None:
            event = due("run")
            self.requests.append((event, signed(event)))
            self.send(self.requests[-1][1])
        return super().take_commands()


class Lived:
    """A run that was trained: its log and objects, and what a replay makes of them."""

    def __init__(self, folder: Path) -> None:
        self.objects = ObjectStore(folder / "objects")
        self.log = Scripted(self.objects, {})
        self.result: RunResult | None = None
        self.parent, self.run_id = self, "run"
        self.config = RunConfig(task="tiny")

    @staticmethod
    def germinate(seed_id: str, blueprint_id: str = "BP009") -> Command:
        return lambda run_id: seed_command(run_id, leyline.SEED_OPERATION_GERMINATE, seed_id, blueprint_id)

    @staticmethod
    def cull(seed_id: str) -> Command:
        return lambda run_id: seed_command(run_id, leyline.SEED_OPERATION_CULL, seed_id)

    @staticmethod
    def go_back(level: str) -> Command:
        command = leyline.AdaptationCommand(command_type=leyline.COMMAND_TYPE_ROLLBACK)
        command.rollback_payload.update({"level": level})
        return lambda run_id: command_event(run_id, command)

    @staticmethod
    def set_rate(rate: float) -> Command:
        payload = leyline.CommandOptimizerAdjustment(optimizer_id="host", hyperparameters={"lr": rate})
        command = leyline.AdaptationCommand(command_type=leyline.COMMAND_TYPE_OPTIMIZER, optimizer_adjustment=payload)
        return lambda run_id: command_event(run_id, command)

    tiny = staticmethod(tiny)

    def train(
        self,
        script: dict[int, Command] | None = None,
        faults: Iterable[int] = (),
        miss: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
        task: Task | None = None,
        dies_at: int | None = None,
        *,
        told: bool = True,
        clock: Clock = REAL_CLOCK,
        **config: Any,
    ) -> Lived:
        """Live it, up to its end or its death."""
        settings = {"task": "tiny", "policy": "random", "decision_timeout_s": None, "keep_checkpoints": 0}
        self.config = RunConfig(**(settings | {"seeds": QUICK} | config))
        self.log = Scripted(self.objects, script or {})
        self.log.miss(miss)
        self.log.dies_at, self.log.told = dies_at, told
        with contextlib.suppress(Killed):
            self.result = train(
                self.config,
                task or tiny(per_sample_loss=Fault(faults)),
                self.log,
                clock=clock,
                objects=self.objects,
                verifier=CommandVerifier(KEYS),
                run_id="run",
                should_stop=should_stop,
            )
        return self

    def resume(self, dies_at: int | None = None, *, told: bool = True, task: Task | None = None) -> Lived:
        """Go on with it in another process."""
        recorded = self.whole()
        log = Scripted(self.objects, {}, self.log.events)
        log.requests = self.log.requests
        log.dies_at, log.told = dies_at, told
        self.log = log
        with contextlib.suppress(Killed):
            self.result = resume_run(
                recorded,
                task or tiny(),
                log,
                clock=REAL_CLOCK,
                objects=self.objects,
                verifier=CommandVerifier(KEYS),
                should_stop=lambda: False,
            )
        return self

    def fork(
        self,
        parent: Lived,
        step: int,
        change: str,
        *,
        task: Task | None = None,
        run_id: str = "child",
        dies_at: int | None = None,
    ) -> Lived:
        """Leave `parent` at a step, on a log of its own that its parent's is read from before."""
        self.parent, self.run_id, self.objects = parent, run_id, parent.objects
        self.log = Scripted(self.objects, {})
        self.log.dies_at = dies_at
        with contextlib.suppress(Killed):
            self.result = fork_run(
                parent.whole(),
                run_id,
                task or tiny(),
                self.log,
                step=step,
                change=read_change(change),
                clock=REAL_CLOCK,
                objects=self.objects,
                verifier=CommandVerifier(KEYS),
                should_stop=lambda: False,
            )
        return self

    def whole(self) -> Recorded:
        """A fork as it is recorded, with its parent's part."""
        if self.parent is self:
            return self.recorded()
        whole = self.parent.whole()
        start = self.log.events[0].run_started
        shared = whole.facts[: start.parent_sequence]
        asked = [(Event.FromString(s.payload), s) for s in (*whole.decisions.values(), *whole.commands.values())]
        own = [event for event in self.log.events if event.sequence]
        mine = [(e, signed(e)) for e in self.log.events if body_name(e) in ("decision_made", "adaptation_command")]
        return Recorded.of(self.run_id, [*shared, *own], [*asked, *mine])

    def digests(self) -> list[tuple[int, bytes]]:
        """The digests at the ends of epochs that count, with their steps."""
        facts = self.recorded().facts
        kept = [(fact.global_step, fact.state_digested) for fact in facts if fact.HasField("state_digested")]
        return [(step, body.root) for step, body in kept if body.occasion == "epoch"]

    def recorded(self, events: Iterable[Event] | None = None) -> Recorded:
        """What its log says of it, or what `events` say instead."""
        events = list(self.log.events if events is None else events)
        requests = [(e, signed(e)) for e in events if body_name(e) in ("decision_made", "adaptation_command")]
        return Recorded.of("run", [e for e in events if e.sequence], [*requests, *self.log.requests])

    def replay(
        self,
        events: Iterable[Event] | None = None,
        *,
        task: Task | None = None,
        clock: Clock = REAL_CLOCK,
        **where: Any,
    ) -> Replayed:
        """Live it again."""
        return replay_run(self.recorded(events), task or tiny(), objects=self.objects, clock=clock, **where)

    @staticmethod
    def slow_clock(seconds: float) -> Clock:
        """A clock on which every reading comes so much later than the one before."""
        readings = itertools.count()
        return Clock(lambda: seconds * next(readings), REAL_CLOCK.wall_ns)

    def copies(self) -> list[Event]:
        """Its events, to be tampered with."""
        return [Event.FromString(event.SerializeToString()) for event in self.log.events]

    def count(self, name: str) -> int:
        return len(self.log.bodies(name))


@pytest.fixture
def other(tmp_path: Path) -> Lived:
    return Lived(tmp_path / "other")


@pytest.fixture
def lived(tmp_path: Path) -> Lived:
    return Lived(tmp_path)
