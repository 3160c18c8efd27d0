"""Made-up histories for tests and benchmarks: events as trainers write them, right and wrong, as records of a log.

`Trainers` plays what can happen to a run: several incarnations that write at once, claims that race, rollbacks, facts
that arrive twice, go missing or make no sense. It knows nothing of any fold, so both folds can be tested against it.
`story` is a small history of all that a projection folds, for logs that are kept to be read later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from contracts.leyline.v1 import event_pb2 as pb
from contracts.leyline.v1 import leyline_pb2
from contracts.leyline.v1 import leyline_pb2 as leyline
from contracts.topics import BY_BODY, PARTITIONS
from esper.kasmina.lifecycle import DORMANT, GERMINATED, STAGES, Stage, targets
from esper.leyline import ids
from esper.leyline.envelope import Event, body_name, new_event
from projections.records import StoredRecord

SEEDS: Final = ("s1", "s2", "s3")


BREAKER_STATES: Final = tuple(leyline_pb2.CircuitBreakerState.keys())


RECORDED_AT_NS: Final = 1_760_000_000_000_000_000


def lawful_way(source: Stage, target: Stage) -> list[Stage]:
    """The stages on a shortest lawful way from one stage to another, without the first."""
    ways, seen = [[source]], {source}
    for way in ways:
        if way[-1] == target:
            return way[1:]
        ways += [[*way, stage] for stage in targets(way[-1]) if stage not in seen]
        seen.update(targets(way[-1]))
    raise ValueError(f"no way leads from stage {source} to {target}")


@dataclass(slots=True)
class Trainer:
    """One process that believes to own the run: what it would write next."""

    incarnation: int
    sequence: int = 0
    timeline: int = 1
    step: int = 0
    epoch: int = 0
    stages: dict[str, Stage] = field(default_factory=lambda: dict.fromkeys(SEEDS, DORMANT))
    lives: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SEEDS, 0))
    past: list[tuple[int, int, int, dict[str, Stage]]] = field(default_factory=list)

    def copy(self, incarnation: int, upto: int) -> Trainer:
        """A trainer that takes over after the fact at place `upto` of this one's past."""
        past = self.past[: upto + 1]
        sequence, step, epoch, stages = past[-1]
        return Trainer(incarnation, sequence, self.timeline, step, epoch, dict(stages), dict(self.lives), list(past))


class Trainers:
    """The trainers of one run and everything that they wrote, in the order of the log."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.events: list[Event] = []
        self.trainers = [Trainer(incarnation=1)]
        sites = [pb.SiteDescription(site=f"layers.{place}", seed_id=seed) for place, seed in enumerate(SEEDS)]
        self.publish(self.trainers[0], pb.RunStarted(task="spirals", policy="random", sites=sites, params_host=1_000))

    def publish(self, trainer: Trainer, body: Any, *, skip: int = 0) -> Event:
        """Append a fact of `trainer` and remember where it stands; `skip` leaves sequences out (or repeats them)."""
        trainer.sequence += 1 + skip
        event = new_event(
            body,
            event_id=ids.derived_id(self.run_id.encode(), "trainers", len(self.events)),
            run_id=self.run_id,
            producer="trainer",
            recorded_at_ns=RECORDED_AT_NS + len(self.events) * 1_000_000,
            sequence=trainer.sequence,
            incarnation=trainer.incarnation,
            timeline=trainer.timeline,
            global_step=trainer.step,
            epoch=trainer.epoch,
        )
        self.events.append(event)
        trainer.past.append((trainer.sequence, trainer.step, trainer.epoch, dict(trainer.stages)))
        return event

    def train(self, who: int, steps: int = 5) -> None:
        """A trainer takes steps and notes a new learning rate."""
        trainer = self._trainer(who)
        trainer.step += steps
        self.publish(trainer, pb.LearningRateChanged(group="host", old_lr=0.1, new_lr=0.1 / trainer.step))

    def move(self, who: int, seed: int, choice: int) -> None:
        """A trainer moves a seed by one of the moves that it believes to be legal."""
        trainer = self._trainer(who)
        seed_id = SEEDS[seed % len(SEEDS)]
        stage = trainer.stages[seed_id]
        ways = targets(stage)
        if ways:
            self._transition(trainer, seed_id, stage, ways[choice % len(ways)])

    def force(self, who: int, seed: int, choice: int) -> None:
        """A trainer moves a seed from any stage to any other, mostly illegally."""
        source, target = STAGES[choice % len(STAGES)], STAGES[(choice // len(STAGES)) % len(STAGES)]
        self._transition(self._trainer(who), (*SEEDS, "s9")[seed % (len(SEEDS) + 1)], source, target)

    def complete_epoch(self, who: int) -> None:
        """A trainer completes an epoch."""
        trainer = self._trainer(who)
        trainer.epoch += 1
        trainer.step += 10
        seeds = [
            pb.SeedObservation(seed_id=seed, stage=stage, alpha=trainer.step / 64, stage_age_epochs=1, parameters=7)
            for seed, stage in trainer.stages.items()
        ]
        windows = [
            pb.ObservationWindow(command_id=bytes([place]) * 16, seed_id=seed, closed=place % 2 == trainer.epoch % 2)
            for place, seed in enumerate(SEEDS)
        ]
        state = leyline_pb2.SystemStatePacket(version=1, current_epoch=trainer.epoch, validation_loss=1 / trainer.epoch)
        conservative = trainer.epoch % 3 == 0
        packet = pb.EpochCompleted(
            state=state, seeds=seeds, windows=windows, params=1_000 + trainer.epoch, conservative=conservative
        )
        self.publish(trainer, packet)

    def note(self, who: int, kind: int, choice: int) -> None:
        """A trainer notes what changes no stage: a kernel, a breaker, a checkpoint, a command that it applied."""
        trainer, seed_id = self._trainer(who), SEEDS[choice % len(SEEDS)]
        checkpoint = f"sha256:{choice:064x}"
        bodies = [
            pb.KernelAttached(seed_id=seed_id, blueprint_id="BP009", module_parameters=choice, form="eager"),
            pb.KernelSwapped(seed_id=seed_id, from_form="eager", to_form="compiled"),
            pb.BreakerChanged(breaker=("isolation", "urza")[choice % 2], to_state=BREAKER_STATES[1 + choice % 3]),
            pb.ConservativeModeChanged(entered=choice % 2 == 0),
            pb.CheckpointSaved(ref=checkpoint, step=trainer.step, upto_sequence=trainer.sequence),
            pb.CheckpointPruned(ref=checkpoint, step=trainer.step),
            pb.CommandApplied(command_id=bytes([choice]) * 16, decision_id=bytes([choice]) * (16 * (choice % 2))),
            pb.LearningRateChanged(group=seed_id, new_lr=0.01 * choice, reason=("", "new parameters")[choice // 2 % 2]),
            pb.OptimizerChanged(change=("group_removed", "group_added")[choice % 2], group=seed_id),
        ]
        self.publish(trainer, bodies[kind % len(bodies)])

    def roll_back(self, who: int, back: int, *, astray: bool = False) -> None:
        """A trainer goes back to an earlier fact of its past; `astray` names one that is not there."""
        trainer = self._trainer(who)
        place = max(len(trainer.past) - 1 - back % len(trainer.past), 0)
        sequence, step, epoch, stages = trainer.past[place]
        from_step, trainer.step, trainer.epoch = trainer.step, step, epoch
        trainer.timeline += 1
        trainer.stages = dict(stages)
        del trainer.past[place + 1 :]
        self.publish(
            trainer,
            pb.RolledBack(
                level="fast",
                from_step=from_step,
                to_step=step,
                to_epoch=epoch,
                to_sequence=back if astray else sequence,
                new_timeline=trainer.timeline,
            ),
        )

    def resume(self, who: int, back: int, *, astray: bool = False) -> None:
        """A new trainer takes the run over from some fact of another's past, which may still be writing."""
        old = self._trainer(who)
        upto = max(len(old.past) - 1 - back % max(len(old.past), 1), 0)
        new = old.copy(old.incarnation + 1, upto)
        self.trainers.append(new)
        accepted = back if astray else new.sequence
        self.publish(new, pb.RunResumed(accepted_sequence=accepted, from_step=new.step, reason="test"))

    def finish(self, who: int) -> None:
        """A trainer finishes the run."""
        self.publish(self._trainer(who), pb.RunFinished(status="completed"))

    def repeat(self, which: int) -> None:
        """The log gets an event a second time, byte for byte."""
        if self.events:
            self.events.append(self.events[which % len(self.events)])

    def lose(self, who: int) -> None:
        """A sequence is left out."""
        self.publish(self._trainer(who), pb.OptimizerChanged(change="reset"), skip=1)

    def clash(self, who: int, back: int) -> None:
        """A second fact with a sequence that was used."""
        trainer = self._trainer(who)
        sequence = trainer.sequence
        self.publish(trainer, pb.OptimizerChanged(change="reset"), skip=-1 - back % max(sequence, 1))
        trainer.sequence = sequence

    def intrude(self, ahead: int) -> None:
        """A process that never claimed the run writes a fact of its own incarnation."""
        stranger = Trainer(max(each.incarnation for each in self.trainers) + 1 + ahead, self.trainers[-1].sequence)
        self.publish(stranger, pb.OptimizerChanged(change="reset"))

    def forget_start(self) -> None:
        """The log lost the run's first fact."""
        self.events = [event for event in self.events if event.WhichOneof("body") != "run_started"]

    def decide(self) -> None:
        """An event of another topic, which no fold of facts may heed."""
        decision = new_event(
            pb.DecisionMade(actions=["nothing"], policy="random"),
            event_id=ids.derived_id(self.run_id.encode(), "decide", len(self.events)),
            run_id=self.run_id,
            producer="tamiyo",
            recorded_at_ns=RECORDED_AT_NS,
        )
        self.events.append(decision)

    def _transition(self, trainer: Trainer, seed_id: str, source: Stage, target: Stage) -> None:
        trainer.stages[seed_id] = target
        trainer.lives[seed_id] = trainer.lives.get(seed_id, 0) + (target == GERMINATED)
        body = pb.SeedTransitioned(
            seed_id=seed_id,
            site=("", "layers.9")[target % 2],
            from_stage=source,
            to_stage=target,
            reason="test",
            blueprint_id="BP008",
            alpha=0.5,
            life=trainer.lives[seed_id],
            parameters=target,
        )
        self.publish(trainer, body)

    def _trainer(self, who: int) -> Trainer:
        return self.trainers[who % len(self.trainers)]


@dataclass(slots=True)
class LogOfRecords:
    """Gives events their places: a partition per run, offsets that count up."""

    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    headers: tuple[tuple[str, bytes | None], ...] = (("esper-key", b"test"), ("esper-signature", bytes(32)))

    def place(self, events: Iterable[Event]) -> list[StoredRecord]:
        """The events as records, in the order given."""
        return [
            self.place_one(event.run_id, BY_BODY[body_name(event)].name, event.SerializeToString()) for event in events
        ]

    def place_one(self, run_id: str, topic: str, value: bytes | None) -> StoredRecord:
        """Any bytes as a record of `topic`."""
        place = (topic, sum(run_id.encode()) % PARTITIONS)
        offset = self.ends.get(place, 0)
        self.ends[place] = offset + 1
        return StoredRecord(*place, offset, RECORDED_AT_NS // 1_000_000 + offset, run_id.encode(), value, self.headers)


RUN: Final = "grown"


CONTROL: Final = "grown-control"


def story() -> list[Event]:
    """All events, in the order in which they were made; ids and bytes are the same every time."""
    return [*_grown(), *_control(), *_policies(), *_blueprints()]


def _grown() -> Iterator[Event]:
    run = Trainers(RUN)
    yield from run.events
    for turn in range(4):
        yield from _epoch(run, 0, germinates=turn == 1)
    first = run.trainers[0]
    yield from _did(run, lambda: run.roll_back(0, 2))
    yield from _epoch(run, 0)
    yield from _did(run, lambda: run.resume(0, 0))
    yield from _epoch(run, 1)
    yield from _did(run, lambda: run.complete_epoch(0))  # the process that was thought dead
    yield from _did(run, lambda: run.publish(first, pb.RunFinished(status="failed", reason="a zombie's word")))
    yield from _epoch(run, 1)
    finished = pb.RunFinished(status="completed", test_accuracy=0.91, test_loss=0.3, params_final=1_042, flops=5e6)
    yield from _did(run, lambda: run.publish(run.trainers[1], finished))


def _control() -> Iterator[Event]:
    run = Trainers(CONTROL)
    run.events[0].run_started.control_of = RUN
    yield from run.events
    for _ in range(4):
        yield from _epoch(run, 0)
    finished = pb.RunFinished(status="completed", test_accuracy=0.88, test_loss=0.4, params_final=1_000, flops=4e6)
    yield from _did(run, lambda: run.publish(run.trainers[0], finished))


def _epoch(run: Trainers, who: int, *, germinates: bool = False) -> Iterator[Event]:
    """A packet, the decision on it, and, where s1 germinates, the command with all that comes of it."""
    yield from _did(run, lambda: run.complete_epoch(who))
    packet, actions = run.events[-1], ["nothing", "germinate s1 BP009"]
    command_id = ids.derived_id(packet.event_id, "command", 0) if germinates else b""
    yield _told(
        packet,
        "decision",
        pb.DecisionMade(
            packet_id=packet.event_id,
            policy="ppo",
            policy_version="1",
            policy_hash=b"p" * 32,
            observation=packet.epoch_completed.SerializeToString(deterministic=True),
            observation_hash=b"o" * 32,
            action_mask=b"\1\1",
            logits=[0.5, -0.25],
            draw=0.125,
            action=int(germinates),
            actions=actions,
            command_id=command_id,
            value_estimate=0.75,
        ),
    )
    if not germinates:
        return
    applied = pb.CommandApplied(command_id=command_id, seed_id="s1", blueprint_id="BP009", apply_ms=1.5)
    yield from _did(run, lambda: run.publish(run.trainers[who], applied))
    yield from _did(run, lambda: run.move(who, 0, 0))
    report = leyline.FieldReport(
        version=1,
        report_id="r1",
        command_id=ids.text(command_id),
        seed_id="s1",
        blueprint_id="BP009",
        outcome=leyline.FIELD_REPORT_OUTCOME_SUCCESS,
        metrics={"loss_delta_total": -0.125, "avg_hook_latency_ms": 2.5},
        observation_window_epochs=3,
        tamiyo_policy_version="1",
        notes="fossilized",
    )
    yield _told(packet, "report", report)


def _policies() -> Iterator[Event]:
    bodies: list[Any] = [
        pb.PolicyTrained(policy_id="ppo", policy_version="1", experiences=100, metrics={"loss": 0.5}),
        pb.PolicyValidated(policy_id="ppo", passed=True, metrics={"return": 0.25}),
        pb.PolicyPromoted(policy_id="ppo", policy_version="1", by="simic"),
        pb.PolicyLoaded(policy_id="ppo", policy_version="1", process="decider"),
        pb.PolicyTrained(policy_id="ppo", policy_version="2", experiences=200, metrics={"loss": 0.25}),
        pb.PolicyRejected(policy_id="ppo", reason="worse than the one before"),
        leyline.PolicyUpdate(version=1, policy_id="ppo", tamiyo_policy_version="1", payload_ref="sha256:p"),
    ]
    yield from (_alone("policy", place, body) for place, body in enumerate(bodies))


def _blueprints() -> Iterator[Event]:
    for place, name in enumerate(("BP009", "BP036")):
        descriptor = leyline.BlueprintDescriptor(
            blueprint_id=name, name=name.lower(), tier=leyline.BLUEPRINT_TIER_SAFE, risk=0.25, stage=1
        )
        ref = f"sha256:{name}"
        bodies: list[Any] = [
            pb.BlueprintRegistered(descriptor=descriptor, shape_kinds=["vector"], tags=["Residual"]),
            pb.BlueprintApproved(blueprint_id=name, approved=bool(place), by="ada", why="looked at it"),
            pb.CompileRequested(
                job_id=name, blueprint_id=name, shape_kind="vector", shape=[4], parameters={"depth": 2}
            ),
            pb.CompileFinished(job_id=name, blueprint_id=name, artifact_ref=ref, compile_ms=12, eager_us=3),
            pb.ArtifactStored(blueprint_id=name, artifact_ref=ref, artifact_version=1, checksum="c", form="eager"),
            pb.KernelAttached(seed_id="s1", blueprint_id=name, artifact_ref=ref, form="eager"),
        ]
        yield from (_alone(name, number, body) for number, body in enumerate(bodies))


def _did(run: Trainers, act: Any) -> list[Event]:
    """What the run's log got by an act."""
    before = len(run.events)
    act()
    return run.events[before:]


def _told(packet: Event, what: str, body: Any) -> Event:
    """An event that another process derived from a packet."""
    return new_event(
        body,
        event_id=ids.derived_id(packet.event_id, what, 0),
        run_id=packet.run_id,
        producer="tamiyo",
        recorded_at_ns=packet.recorded_at_ns + 1_000,
        causation_id=packet.event_id,
        global_step=packet.global_step,
        epoch=packet.epoch,
    )


def _alone(what: str, place: int, body: Any) -> Event:
    event_id = ids.derived_id(what.encode(), "sample", place)
    return new_event(
        body, event_id=event_id, run_id="", producer="sample", recorded_at_ns=RECORDED_AT_NS + place * 1_000_000
    )
