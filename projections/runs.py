"""Runs: what each was to do, how far it came, and how it ended; the rows of a run's course serve others too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from contracts.topics import RUNS as RUNS_TOPIC
from esper.leyline.envelope import Event
from projections.projection import Make, Projection, Row, fact_row, fields
from projections.records import Record

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


COURSE: Final[Mapping[str, Make]] = {
    "run_started": _started,
    "epoch_completed": _packet,
    "rolled_back": _rolled_back,
    "run_resumed": _resumed,
    "run_finished": _finished,
}
"""The rows of a run's course. A projection's tables take of them the columns that they have."""

RUNS: Final = Projection(
    name="runs",
    what="every run: what it was to do, how far it came, how it ended, against its control run",
    owner="worker",
    sources=(RUNS_TOPIC,),
    folder="runs",
    rows=COURSE,
    views=("runs",),
)
