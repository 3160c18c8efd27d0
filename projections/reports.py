"""Field reports: what came of every applied command, and what blueprints came to over all of them."""

from __future__ import annotations

import json
from typing import Final

from contracts.topics import REPORTS as REPORTS_TOPIC
from esper.leyline.envelope import Event
from projections.projection import Projection, Row, fields, row
from projections.records import Record

_REPORT: Final = ("report_id", "command_id", "seed_id", "blueprint_id", "outcome", "notes")


def _report(event: Event, record: Record) -> tuple[str, Row]:
    body = event.field_report
    return "reported", row(
        event,
        record,
        run_id=event.run_id,
        step=event.global_step,
        epoch=event.epoch,
        recorded_at_ns=event.recorded_at_ns,
        metrics=json.dumps(dict(sorted(body.metrics.items()))),
        loss_delta=body.metrics.get("loss_delta_total"),
        window_epochs=body.observation_window_epochs,
        policy_version=body.tamiyo_policy_version,
        follow_up_actions=len(body.follow_up_actions),
        **fields(body, _REPORT),
    )


REPORTS: Final = Projection(
    name="reports",
    what="field reports: what came of every applied command, and of every blueprint",
    owner="worker",
    sources=(REPORTS_TOPIC,),
    folder="reports",
    rows={"field_report": _report},
    views=("reports", "blueprints"),
)
