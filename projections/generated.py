"""A long, lawful history made up for benchmarks: many runs, 27 types of events.

The mix follows the fixture of the shared measurements: a third step samples, a third metric points, and per epoch one
state packet, decision, command, outcome, gate, move, digest and now and then the rest. An event has 150 to 350 bytes,
only the rarest have fewer. Every run folds without a problem. Deterministic in `seed`; ids are random, as real ones
are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from contracts.leyline.v1 import event_pb2 as pb
from contracts.leyline.v1 import leyline_pb2 as leyline
from contracts.topics import BY_BODY, PARTITIONS
from esper.kasmina.lifecycle import CULLED, DORMANT, GERMINATED, PROBATIONARY, Stage, exit_gate, targets
from projections.records import StoredRecord

EPOCHS: Final = 50
STEPS: Final = 100
SEEDS: Final = ("s1", "s2", "s3")
START_NS: Final = 1_760_000_000_000_000_000
_FIELDS: Final = {
    field.message_type.full_name: field.name for field in pb.Event.DESCRIPTOR.fields if field.message_type is not None
}


@dataclass(slots=True)
class _Run:
    """One run while it is made up."""

    number: int
    chance: random.Random
    sequence: int = 0
    step: int = 0
    epoch: int = 0
    now_ns: int = START_NS
    stages: dict[str, Stage] = field(default_factory=lambda: dict.fromkeys(SEEDS, DORMANT))
    blueprints: dict[str, str] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """Ids of runs sort by their age."""
        return f"01{self.number:024d}"

    def event(self, producer: str, *, fact: bool, cause: bytes = b"", chain: bytes = b"", **body: Any) -> pb.Event:
        """The next event."""
        if fact:
            self.sequence += 1
        self.now_ns += 3_000_000
        return pb.Event(
            event_id=self.chance.randbytes(16),
            run_id=self.run_id,
            producer=producer,
            sequence=self.sequence if fact else 0,
            incarnation=1,
            timeline=1,
            global_step=self.step,
            epoch=self.epoch,
            recorded_at_ns=self.now_ns,
            causation_id=cause,
            correlation_id=chain,
            schema_version=1,
            priority=leyline.MESSAGE_PRIORITY_NORMAL,
            **body,
        )


def history(events: int, *, seed: int = 0, epochs: int = EPOCHS, telemetry: bool = True) -> Iterator[pb.Event]:
    """At least `events` events of as many whole runs of `epochs` epochs as that takes, one run after the other.

    Without `telemetry`, an epoch has ten events instead of 26: for long runs.
    """
    made, number = 0, 0
    while made < events:
        for event in _run(_Run(number, random.Random(f"{seed}/{number}")), epochs, telemetry=telemetry):
            made += 1
            yield event
        number += 1


def records(events: Iterator[pb.Event]) -> Iterator[StoredRecord]:
    """The events at places of a log, with headers like signed ones."""
    ends: dict[tuple[str, int], int] = {}
    signatures = random.Random(1)
    for event in events:
        topic = BY_BODY[event.WhichOneof("body") or ""].name
        key = event.run_id.encode()
        place = (topic, sum(key) % PARTITIONS)
        offset = ends.get(place, 0)
        ends[place] = offset + 1
        headers = (("esper-key", b"0123abcd"), ("esper-signature", signatures.randbytes(32)))
        timestamp_ms = event.recorded_at_ns // 1_000_000
        yield StoredRecord(*place, offset, timestamp_ms, key, event.SerializeToString(), headers)


def _run(run: _Run, epochs: int, *, telemetry: bool) -> Iterator[pb.Event]:
    sites = [
        pb.SiteDescription(site=f"blocks.{place}", seed_id=seed, shape_kind="image", shape=[16, 8, 8], depth=place)
        for place, seed in enumerate(SEEDS)
    ]
    started = pb.RunStarted(task="digits", policy="heuristic", sites=sites, epochs=epochs, steps_per_epoch=STEPS)
    yield run.event("trainer", fact=True, run_started=started)
    for _ in range(epochs):
        if telemetry:
            yield from _training(run)
        else:
            run.step += STEPS
        yield from _boundary(run)
        yield from _now_and_then(run)
    accuracy = 0.9 + 0.09 * run.chance.random()
    finished = pb.RunFinished(status="completed", test_accuracy=accuracy, params_final=20_000, germinated=3)
    yield run.event("trainer", fact=True, run_finished=finished)


def _training(run: _Run) -> Iterator[pb.Event]:
    """An epoch's telemetry."""
    chance = run.chance
    for _ in range(8):
        run.step += STEPS // 8
        seeds = [
            pb.SeedStep(
                seed_id=seed,
                stage=stage,
                alpha=chance.random(),
                gradient_norm=chance.random(),
                activation_norm_ratio=chance.random(),
            )
            for seed, stage in run.stages.items()
        ]
        sample = pb.StepSampled(
            loss=chance.random(),
            gradient_norm=chance.random(),
            samples_per_s=9_000 * chance.random(),
            step_ms=chance.random(),
            seeds=seeds,
        )
        yield run.event("trainer", fact=False, step_sampled=sample)
        points = [
            leyline.MetricPoint(name="tolaria.epoch_hook.latency_ms", value=18 * chance.random(), unit="ms"),
            leyline.MetricPoint(name="kasmina.seed.alpha", value=chance.random(), attributes={"seed_id": "s1"}),
        ]
        packet = leyline.TelemetryPacket(
            packet_id=chance.randbytes(16).hex(),
            source_subsystem="tolaria",
            level=leyline.TELEMETRY_LEVEL_INFO,
            metrics=points,
        )
        packet.timestamp.FromNanoseconds(run.now_ns)
        yield run.event("trainer", fact=False, telemetry_packet=packet)


def _boundary(run: _Run) -> Iterator[pb.Event]:
    """The end of an epoch: state packet, decision, command, what came of it."""
    chance = run.chance
    run.epoch += 1
    loss = 1.0 / run.epoch + 0.01 * chance.random()
    observed = [
        pb.SeedObservation(seed_id=seed, stage=stage, alpha=0.5, blueprint_id="BP009", gradient_norm=chance.random())
        for seed, stage in run.stages.items()
    ]
    state = leyline.SystemStatePacket(
        version=1, current_epoch=run.epoch, validation_accuracy=1 - loss / 2, validation_loss=loss, training_loss=loss
    )
    hook_ms = 18 * chance.random()
    completed = pb.EpochCompleted(state=state, seeds=observed, params=20_000, hook_ms_before=hook_ms)
    packet = run.event("trainer", fact=True, epoch_completed=completed)
    yield packet
    seed_id = SEEDS[run.epoch % len(SEEDS)]
    stage = run.stages[seed_id]
    ways = [target for target in targets(stage) if stage != DORMANT or target == GERMINATED]
    target = ways[-1 if stage == PROBATIONARY and chance.random() < 0.5 else 0] if ways else DORMANT
    command_id = chance.randbytes(16)
    decision = run.event(
        "tamiyo",
        fact=False,
        cause=packet.event_id,
        chain=packet.event_id,
        decision_made=pb.DecisionMade(
            packet_id=packet.event_id,
            policy="heuristic",
            actions=["nothing", f"germinate {seed_id} BP009", f"cull {seed_id}"],
            logits=[chance.random() for _ in range(3)],
            action=1,
            draw=chance.random(),
            command_id=command_id,
            latency_ms=chance.random(),
            reason="the probe loss has not moved",
        ),
    )
    yield decision
    yield from _command(run, decision, command_id, seed_id, target if ways else None)


def _command(
    run: _Run, decision: pb.Event, command_id: bytes, seed_id: str, target: Stage | None
) -> Iterator[pb.Event]:
    chain = decision.correlation_id
    command = leyline.AdaptationCommand(
        version=1,
        command_id=command_id.hex(),
        command_type=leyline.COMMAND_TYPE_SEED,
        target_seed_id=seed_id,
        issued_by="tamiyo",
        seed_operation=leyline.CommandSeedOperation(operation=leyline.SEED_OPERATION_GERMINATE, blueprint_id="BP009"),
    )
    command.issued_at.FromNanoseconds(run.now_ns)
    request = run.event("tamiyo", fact=False, cause=decision.event_id, chain=chain, adaptation_command=command)
    yield request
    about: dict[str, Any] = {"fact": True, "cause": request.event_id, "chain": chain}
    if target is None:
        refused = pb.CommandRejected(command_id=command_id, reason="illegal_transition", seed_id=seed_id)
        yield run.event("trainer", **about, command_rejected=refused)
        return
    applied = pb.CommandApplied(command_id=command_id, seed_id=seed_id, blueprint_id="BP009", apply_ms=1.0)
    done = run.event("trainer", **about, command_applied=applied)
    yield done
    about["cause"] = done.event_id  # what a command changes is caused by its having been applied
    stage = run.stages[seed_id]
    if (gate := exit_gate(stage)) is not None:
        figures = [pb.Measurement(name="probe_loss", value=run.chance.random(), limit=0.5)]
        evaluated = pb.GateEvaluated(
            seed_id=seed_id, gate=gate, passed=target != CULLED, stage=stage, measurements=figures
        )
        yield run.event("trainer", **about, gate_evaluated=evaluated)
    if target == GERMINATED:
        attached = pb.KernelAttached(seed_id=seed_id, blueprint_id="BP009", form="eager", module_parameters=512)
        yield run.event("trainer", **about, kernel_attached=attached)
    moved = pb.SeedTransitioned(
        seed_id=seed_id, site="blocks.0", from_stage=stage, to_stage=target, reason="generated", blueprint_id="BP009"
    )
    run.stages[seed_id] = target
    yield run.event("trainer", **about, seed_transitioned=moved)


def _now_and_then(run: _Run) -> Iterator[pb.Event]:
    """What comes at the end of an epoch, but not of every one."""
    rare = (("trainer", _rare_facts(run)), ("nissa", _rare_telling(run)))
    for producer, bodies in rare:
        for every, body in bodies:
            if run.epoch % every == 0:
                named: dict[str, Any] = {_FIELDS[body.DESCRIPTOR.full_name]: body}
                yield run.event(producer, fact=producer == "trainer", **named)


def _rare_facts(run: _Run) -> list[tuple[int, Any]]:
    """Facts, each with how many epochs lie between two of its kind."""
    chance = run.chance
    content = chance.randbytes(32)
    saved = pb.CheckpointSaved(ref=f"sha256:{run.step:064x}", step=run.step, bytes=10_000, state_digest=content)
    rate = pb.LearningRateChanged(group="host", old_lr=0.1, new_lr=0.09, policy="cosine", reason="a step of the policy")
    return [
        (1, pb.StateDigested(root=content, tensors_ref=f"sha256:{content.hex()}", tensors=40, occasion="epoch")),
        (2, rate),
        (
            3,
            pb.OptimizerChanged(
                change="group_added",
                optimizer="adamw",
                group="s1",
                hyperparameters={"lr": 0.01, "beta1": 0.9, "beta2": 0.999},
            ),
        ),
        (5, saved),
        (5, pb.CheckpointPruned(ref=f"sha256:{run.step - 3_000:064x}", step=run.step)),
        (20, pb.DecisionTimedOut(packet_id=chance.randbytes(16), waited_ms=2_000)),
        (25, pb.BreakerChanged(breaker="isolation", failures=3, reason="three violations of isolation in a row")),
        (25, pb.ConservativeModeChanged(entered=True, reason="the breaker of isolation is open")),
        (
            25,
            pb.KernelSwapped(
                seed_id="s1",
                blueprint_id="BP009",
                from_form="eager",
                to_form="compiled",
                max_difference=chance.random(),
            ),
        ),
    ]


def _rare_telling(run: _Run) -> list[tuple[int, Any]]:
    """What is told and is no fact, each with how many epochs lie between two of its kind."""
    chance = run.chance
    metrics = {"loss_delta_total": -chance.random(), "loss_delta_min": -0.2, "loss_delta_max": 0.02}
    return [
        (
            2,
            leyline.FieldReport(
                version=1, training_run_id=run.run_id, seed_id="s1", blueprint_id="BP009", metrics=metrics
            ),
        ),
        (20, pb.TelemetryShed(count=3, total=9, reason="the queue of telemetry is full")),
        (25, pb.AlertFired(rule="slow_hook", description="the hook takes long", value=20, threshold=18)),
        (25, pb.AlertCleared(rule="slow_hook", value=10)),
        (50, pb.SecurityViolation(reason="nonce_replayed", topic="esper.commands", subject_id=chance.randbytes(16))),
        (50, leyline.EmergencySignal(version=1, reason="drill", origin="nissa", run_id=run.run_id)),
    ]
