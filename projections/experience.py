"""Simic's experience: for every decision what the policy saw, drew and chose, and what a reward can be made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from contracts.leyline.v1.leyline_pb2 import FieldReport, FieldReportOutcome
from contracts.topics import COMMANDS, REPORTS, RUNS
from esper.leyline.envelope import Event
from projections.projection import Projection, Row, fact_row, fields, row
from projections.records import Record

_DECIDED: Final = (
    *("packet_id", "policy", "policy_version", "policy_hash", "observation", "observation_ref", "observation_hash"),
    *("action_mask", "logits", "draw", "action", "actions", "command_id", "risk", "value_estimate"),
)


_METRICS: Final[Mapping[str, str]] = {
    "loss_delta_total": "loss_delta",
    "loss_delta_min": "loss_delta_min",
    "loss_delta_max": "loss_delta_max",
    "avg_hook_latency_ms": "hook_ms",
}


"""A field report's metrics, and the columns that hold them; one that a report lacks is null."""


def _decided(event: Event, record: Record) -> tuple[str, Row]:
    return "decided", row(event, record, run_id=event.run_id, **fields(event.decision_made, _DECIDED))


def _applied(event: Event, record: Record) -> tuple[str, Row]:
    return "outcomes", fact_row(
        event, record, command_id=event.command_applied.command_id, outcome="applied", reason=""
    )


def _rejected(event: Event, record: Record) -> tuple[str, Row]:
    body = event.command_rejected
    return "outcomes", fact_row(event, record, command_id=body.command_id, outcome="rejected", reason=body.reason)


def _reported(event: Event, record: Record) -> tuple[str, Row]:
    body = event.field_report
    if why := wrong_with(body, event.run_id):
        return "refused", row(event, record, run_id=event.run_id, reason=why)
    metrics: dict[str, Any] = {column: body.metrics.get(name) for name, column in _METRICS.items()}
    return "reported", row(
        event,
        record,
        run_id=event.run_id,
        command_id=_bytes(body.command_id),
        decision_id=_bytes(body.decision_id),
        window_epochs=body.observation_window_epochs,
        ended_as=body.notes,
        **fields(body, ("seed_id", "blueprint_id", "outcome")),
        **metrics,
    )


def wrong_with(report: FieldReport, run_id: str) -> str:
    """Why a report is no experience; empty for one that is (R-TAM-51). Its version is judged where events are read.

    One that does not say which run it is on is from before reports were judged, and was taken as it is.
    """
    if not report.training_run_id:
        return ""
    names_none = _bytes(report.command_id) is None and _bytes(report.decision_id) is None
    checks = (
        (not report.HasField("issued_at"), "it does not say when it was issued"),
        (_bytes(report.report_id) is None, f"report id {report.report_id!r} is no UUID"),
        (names_none, "it names neither a command nor a decision"),
        (report.outcome not in FieldReportOutcome.values()[1:], f"outcome {report.outcome} is none"),
        (report.training_run_id != run_id, f"it is on run {report.training_run_id!r}"),
    )
    return next((reason for wrong, reason in checks if wrong), "")


def _bytes(command_id: str) -> bytes | None:
    """A command's id as facts carry it; None for text that is none."""
    try:
        return UUID(command_id).bytes
    except ValueError:
        return None


_STARTED: Final = (
    *("task", "policy", "lifecycle", "control_of", "parent_run_id", "parent_sequence", "epochs", "steps_per_epoch"),
    *("params_host", "device", "esper_version", "config_json"),
)


_FINISHED: Final = (
    *("status", "reason", "test_accuracy", "test_loss", "params_final", "flops", "germinated", "fossilized", "culled"),
    *("telemetry_shed", "wall_s"),
)


_PACKET: Final = ("probe_loss_stderr", "params", "params_budget", "flops", "conservative")


def _started(event: Event, record: Record) -> tuple[str, Row]:
    body = event.run_started
    seeds = json.dumps(dict(sorted(body.seeds.items())))
    return "started", fact_row(event, record, random_seeds=seeds, **fields(body, _STARTED))


def _packet(event: Event, record: Record) -> tuple[str, Row]:
    body = event.epoch_completed
    return "packets", fact_row(
        event,
        record,
        probe_loss=body.state.validation_loss,
        probe_accuracy=body.state.validation_accuracy,
        training_loss=body.state.training_loss,
        hook_ms=body.hook_ms_before,
        **fields(body, _PACKET),
    )


def _rolled_back(event: Event, record: Record) -> tuple[str, Row]:
    body = event.rolled_back
    return "jumps", fact_row(event, record, to_sequence=body.to_sequence, is_claim=False, reason=body.reason)


def _resumed(event: Event, record: Record) -> tuple[str, Row]:
    body = event.run_resumed
    return "jumps", fact_row(event, record, to_sequence=body.accepted_sequence, is_claim=True, reason=body.reason)


def _finished(event: Event, record: Record) -> tuple[str, Row]:
    return "finished", fact_row(event, record, **fields(event.run_finished, _FINISHED))


EXPERIENCE: Final = Projection(
    name="experience",
    what="Simic's experience: state, mask, logits, draw and action of every decision, and what came of it",
    owner="learner",
    sources=(RUNS, COMMANDS, REPORTS),
    folder="experience",
    rows={
        "run_started": _started,
        "epoch_completed": _packet,
        "rolled_back": _rolled_back,
        "run_resumed": _resumed,
        "run_finished": _finished,
        "decision_made": _decided,
        "command_applied": _applied,
        "command_rejected": _rejected,
        "field_report": _reported,
    },
    views=("experience",),
    judges=True,
)
