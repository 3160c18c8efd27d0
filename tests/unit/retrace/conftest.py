"""Runs in memory with all that a run can meet: growth, culls, a person's commands, faults, rollbacks, slow deciders."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.leyline.envelope import Event, body_name
from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.record import Recorded
from esper.tamiyo.serving import Serving
from esper.testing import KEYS, REAL_CLOCK, command_event, seed_command, signed
from esper.tolaria.config import RunConfig
from esper.tolaria.fork_change import read_change
from esper.tolaria.outside import Alarms, Clock, Outside
from esper.tolaria.replay import Replayed, replay_run
from esper.tolaria.resume import fork_run, resume_run
from esper.tolaria.session import RunResult
from esper.tolaria.tasks import Task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from tests.unit.retrace.lives import QUICK, Command, Fault, Killed, Scripted, tiny


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
    def fossilize(seed_id: str) -> Command:
        return lambda run_id: seed_command(run_id, leyline.SEED_OPERATION_FOSSILIZE, seed_id)

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
        script: dict[int, Command | tuple[Command, ...]] | None = None,
        faults: Iterable[int] = (),
        miss: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
        task: Task | None = None,
        dies_at: int | None = None,
        *,
        told: bool = True,
        clock: Clock = REAL_CLOCK,
        serving: Serving | None = None,
        alarms: Alarms | None = None,
        **config: Any,
    ) -> Lived:
        """Live it, up to its end or its death."""
        settings: dict[str, Any] = {
            "task": "tiny",
            "policy": "random",
            "decision_timeout_s": None,
            "keep_checkpoints": 0,
        }
        settings |= {"growth_data_share": 0.0, "growth_budget_factor": 4.0}  # the tiny task has few answers
        self.config = RunConfig(**(settings | {"seeds": QUICK} | config))
        self.log = Scripted(self.objects, script or {}, serving=serving)
        self.log.miss(miss)
        self.log.dies_at, self.log.told = dies_at, told
        with contextlib.suppress(Killed):
            self.result = train(
                self.config,
                task or tiny(per_sample_loss=Fault(faults)),
                LiveWorld(
                    Outside(self.log, clock, self.objects, CommandVerifier(KEYS), None, should_stop, alarms=alarms)
                ),
                run_id="run",
            )
        return self

    def resume(
        self,
        dies_at: int | None = None,
        *,
        told: bool = True,
        task: Task | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Lived:
        """Go on with it in another process."""
        recorded = self.whole()
        log = Scripted(self.objects, {}, self.log.events)
        log.requests = self.log.requests
        log.dies_at, log.told = dies_at, told
        self.log = log
        with contextlib.suppress(Killed):
            verifier = CommandVerifier(KEYS)
            outside = Outside(log, REAL_CLOCK, self.objects, verifier, None, should_stop)
            self.result = resume_run(recorded, task or tiny(), outside, log, verifier)
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
                Outside(self.log, REAL_CLOCK, self.objects, CommandVerifier(KEYS)),
                step=step,
                change=read_change(change),
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
