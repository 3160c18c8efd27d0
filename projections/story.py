"""A small made-up history of everything that a projection folds, for tests and for logs that are kept to be read later.

Two runs: `grown` grows s1, rolls an epoch back, is resumed by a second process while the first writes on, and finishes;
`grown-control` grows nothing. Their decisions, commands and reports; a policy that is trained twice; two blueprints.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from contracts.leyline.v1 import event_pb2 as pb
from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from projections.testing import RECORDED_AT_NS, Trainers

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
