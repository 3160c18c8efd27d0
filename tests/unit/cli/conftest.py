"""The story of one run with one seed, as its trainer and Tamiyo would write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from contracts.leyline.v1 import event_pb2 as e
from contracts.leyline.v1 import leyline_pb2 as l
from contracts.topics import RUNS
from esper.leyline.envelope import Event, new_event
from esper.leyline.ids import derived_id, text

SECOND_NS = 1_000_000_000
FACTS = [Event.DESCRIPTOR.fields_by_name[name].message_type for name in RUNS.bodies]
BEGIN_NS = 1_760_000_000 * SECOND_NS


@pytest.fixture
def tell() -> Callable[..., Event]:
    """Makes events of the run `k3f9x2qa`, one second after another."""
    told = facts = 0

    def make(body: Any, *, causation_id: bytes = b"", event_id: bytes = b"", epoch: int = 0) -> Event:
        nonlocal told, facts
        told += 1
        is_fact = type(body).DESCRIPTOR in FACTS
        facts += is_fact
        return new_event(
            body,
            event_id=event_id or told.to_bytes(16, "big"),
            run_id="k3f9x2qa",
            producer="trainer",
            recorded_at_ns=BEGIN_NS + told * SECOND_NS,
            causation_id=causation_id,
            sequence=facts if is_fact else 0,
            incarnation=1,
            timeline=1,
            global_step=epoch * 10,
            epoch=epoch,
        )

    return make


@pytest.fixture
def story(tell) -> list[Event]:
    """Started, an epoch, a decision to germinate s1, its life up to the cull, another epoch, the end."""
    sites = [e.SiteDescription(site="layer1", seed_id="s1"), e.SiteDescription(site="layer2", seed_id="s2")]
    started = tell(
        e.RunStarted(
            task="digits", policy="heuristic", device="cpu", epochs=2, steps_per_epoch=10, params_host=100, sites=sites
        )
    )
    packet = tell(
        e.EpochCompleted(
            state=l.SystemStatePacket(version=1, training_loss=0.5, validation_loss=0.6, validation_accuracy=0.7),
            seeds=[e.SeedObservation(seed_id=s, stage=l.SEED_LIFECYCLE_STAGE_DORMANT) for s in ("s1", "s2")],
            params=100,
        ),
        epoch=1,
    )
    command_id = derived_id(packet.event_id, "tamiyo.command", 0)
    decision = tell(
        e.DecisionMade(
            packet_id=packet.event_id,
            actions=["nothing", "germinate s1 BP009"],
            action=1,
            reason="the loss stalls",
            command_id=command_id,
        ),
        causation_id=packet.event_id,
        epoch=1,
    )
    command = tell(
        l.AdaptationCommand(
            command_id=text(command_id),
            command_type=l.COMMAND_TYPE_SEED,
            target_seed_id="s1",
            issued_by="tamiyo",
            seed_operation=l.CommandSeedOperation(operation=l.SEED_OPERATION_GERMINATE, blueprint_id="BP009"),
        ),
        event_id=command_id,
        causation_id=decision.event_id,
        epoch=1,
    )
    applied = tell(
        e.CommandApplied(
            command_id=command_id,
            command_type=l.COMMAND_TYPE_SEED,
            operation=l.SEED_OPERATION_GERMINATE,
            seed_id="s1",
            blueprint_id="BP009",
            apply_ms=2.5,
        ),
        causation_id=command.event_id,
        epoch=1,
    )
    germinated = tell(
        e.SeedTransitioned(
            seed_id="s1",
            site="layer1",
            from_stage=l.SEED_LIFECYCLE_STAGE_DORMANT,
            to_stage=l.SEED_LIFECYCLE_STAGE_GERMINATED,
            blueprint_id="BP009",
            life=1,
            parameters=42,
        ),
        causation_id=applied.event_id,
        epoch=1,
    )
    gate = tell(
        e.GateEvaluated(
            seed_id="s1",
            gate=l.SEED_LIFECYCLE_GATE_G1_GRADIENT_HEALTH,
            passed=False,
            reason="no gradient",
            measurements=[e.Measurement(name="norm", value=0.0, limit=0.01)],
        ),
        causation_id=applied.event_id,
        epoch=2,
    )
    culled = tell(
        e.SeedTransitioned(
            seed_id="s1",
            site="layer1",
            from_stage=l.SEED_LIFECYCLE_STAGE_GERMINATED,
            to_stage=l.SEED_LIFECYCLE_STAGE_CULLED,
            reason="G1 failed",
            blueprint_id="BP009",
            life=1,
        ),
        causation_id=applied.event_id,
        epoch=2,
    )
    embargoed = tell(
        e.SeedTransitioned(
            seed_id="s1",
            from_stage=l.SEED_LIFECYCLE_STAGE_CULLED,
            to_stage=l.SEED_LIFECYCLE_STAGE_EMBARGOED,
            life=1,
        ),
        causation_id=applied.event_id,
        epoch=2,
    )
    window = e.ObservationWindow(command_id=command_id, seed_id="s1", closed=True)
    second = tell(
        e.EpochCompleted(
            state=l.SystemStatePacket(version=1, training_loss=0.4, validation_loss=0.5, validation_accuracy=0.8),
            seeds=[
                e.SeedObservation(seed_id="s1", stage=l.SEED_LIFECYCLE_STAGE_EMBARGOED, life=1),
                e.SeedObservation(seed_id="s2", stage=l.SEED_LIFECYCLE_STAGE_DORMANT),
            ],
            windows=[window],
            params=100,
        ),
        epoch=2,
    )
    nothing = tell(
        e.DecisionMade(packet_id=second.event_id, actions=["nothing"], action=0, reason="the run is over"),
        causation_id=second.event_id,
        epoch=2,
    )
    report = tell(
        l.FieldReport(
            version=1,
            command_id=text(command_id),
            seed_id="s1",
            blueprint_id="BP009",
            outcome=l.FIELD_REPORT_OUTCOME_ABORTED,
            observation_window_epochs=1,
            metrics={"loss_delta": -0.1},
        ),
        event_id=derived_id(command_id, "tamiyo.report/k3f9x2qa", 0),
        causation_id=command_id,
        epoch=2,
    )
    finished = tell(
        e.RunFinished(status="completed", test_accuracy=0.75, test_loss=0.55, params_final=100, germinated=1, culled=1),
        epoch=2,
    )
    return [
        started,
        packet,
        decision,
        command,
        applied,
        germinated,
        gate,
        culled,
        embargoed,
        second,
        nothing,
        report,
        finished,
    ]
