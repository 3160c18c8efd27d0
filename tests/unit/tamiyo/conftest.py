"""Observations to decide about: builders with sensible defaults, so that a test names only what matters to it."""

from __future__ import annotations

import pytest

from contracts.leyline.v1.event_pb2 import (
    BlueprintOption,
    EpochCompleted,
    ObservationWindow,
    SeedObservation,
    SiteDescription,
    SiteEvidence,
)
from contracts.leyline.v1.leyline_pb2 import HardwareContext, SystemStatePacket
from esper.kasmina.lifecycle import DORMANT
from esper.leyline import ids
from esper.leyline.envelope import new_event

PACKET_ID = ids.uuid7(1_700_000_000_000_000_000, bytes(range(10)))
PACKET_TIME_NS = 1_700_000_000_000_000_000
RUN_ID = "k3f9x2qa"


def make_state(
    *, kind="image", seeds=None, evidence=None, epoch=8, total=40, accuracy=0.6, loss=1.2, policy="heuristic", **fields
):
    """A digits-like state after `epoch` of `total` epochs; `seeds` and `evidence` map seed ids to changed fields."""
    seeds, evidence = seeds or {}, evidence or {}
    names = ["s1", "s2", "s3"]
    options = [
        BlueprintOption(blueprint_id="BP001", parameters=0, flops_per_sample=0, risk=0.0, residual=True),
        BlueprintOption(blueprint_id="BP009", parameters=170, flops_per_sample=20480, risk=0.3, residual=True),
        BlueprintOption(blueprint_id="BP015", parameters=26, flops_per_sample=2000, risk=0.4, residual=True),
    ]
    gradient = {"s1": 0.9, "s2": 0.5, "s3": 0.2}
    return EpochCompleted(
        **{
            "state": SystemStatePacket(
                version=1,
                current_epoch=epoch,
                validation_accuracy=accuracy,
                validation_loss=loss,
                training_loss=loss,
                packet_id=ids.text(PACKET_ID),
                training_run_id=RUN_ID,
                hardware_context=HardwareContext(device_type="cpu"),
            ),
            "seeds": [SeedObservation(**{"seed_id": name, "stage": DORMANT, **seeds.get(name, {})}) for name in names],
            "evidence": [
                SiteEvidence(
                    **{
                        "seed_id": name,
                        "gradient_norm": gradient[name],
                        "activation_norm": 10.0,
                        **evidence.get(name, {}),
                    }
                )
                for name in names
            ],
            "sites": [
                SiteDescription(
                    site=f"blocks.{index}",
                    seed_id=name,
                    shape_kind=kind,
                    shape=(2, 8, 8),
                    depth=index,
                    options=options,
                )
                for index, name in enumerate(names)
            ],
            "probe_loss_history": [loss + 0.2, loss + 0.1, loss],
            "probe_loss_stderr": 0.05,
            "epochs_total": total,
            "params": 696,
            "params_host": 696,
            "params_budget": 1000,
            "policy": policy,
            "policy_seed": 11,
            "epochs_since_structural_change": epoch,
            **fields,
        }
    )


def make_window(**fields):
    """A closed window in which the probe loss fell."""
    return ObservationWindow(
        **{
            "command_id": ids.derived_id(PACKET_ID, "tamiyo.command", 0),
            "decision_id": ids.derived_id(PACKET_ID, "tamiyo.decide", 0),
            "seed_id": "s1",
            "blueprint_id": "BP009",
            "opened_epoch": 8,
            "age_epochs": 3,
            "loss_at_open": 1.25,
            "loss_min": 1.0,
            "loss_max": 1.5,
            "loss_now": 1.0,
            "hook_ms_mean": 4.5,
            "closed": True,
            "ended_as": "window",
            "policy_version": "heuristic-1",
            **fields,
        }
    )


def make_packet(state, *, event_id=PACKET_ID, timeline=1):
    """The `EpochCompleted` event around a state."""
    return new_event(
        state,
        event_id=event_id,
        run_id=RUN_ID,
        producer="trainer",
        recorded_at_ns=PACKET_TIME_NS,
        correlation_id=event_id,
        sequence=9,
        incarnation=1,
        timeline=timeline,
        global_step=160,
        epoch=state.state.current_epoch,
    )


@pytest.fixture(scope="session", name="make_state")
def _make_state():
    return make_state


@pytest.fixture(scope="session", name="make_window")
def _make_window():
    return make_window


@pytest.fixture(scope="session", name="make_packet")
def _make_packet():
    return make_packet
