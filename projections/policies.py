"""Policies: what was trained, how its validation went, what serves where."""

from __future__ import annotations

import json
from typing import Any, Final

from contracts.topics import POLICIES as POLICIES_TOPIC
from esper.leyline.envelope import Event, body_of
from projections.projection import Projection, Row, row
from projections.records import Record


def _row(event: Event, record: Record, **columns: Any) -> Row:
    policy_id = body_of(event).policy_id
    return row(event, record, policy_id=policy_id, recorded_at_ns=event.recorded_at_ns, **columns)


def _trained(event: Event, record: Record) -> tuple[str, Row]:
    body = event.policy_trained
    return "trained", _row(
        event,
        record,
        policy_version=body.policy_version,
        weights_ref=body.weights_ref,
        experiences=body.experiences,
        metrics=json.dumps(dict(sorted(body.metrics.items()))),
    )


def _validated(event: Event, record: Record) -> tuple[str, Row]:
    body = event.policy_validated
    metrics = json.dumps(dict(sorted(body.metrics.items())))
    return "validated", _row(event, record, passed=body.passed, metrics=metrics, reason=body.reason)


def _rejected(event: Event, record: Record) -> tuple[str, Row]:
    return "rejected", _row(event, record, reason=event.policy_rejected.reason)


def _promoted(event: Event, record: Record) -> tuple[str, Row]:
    body = event.policy_promoted
    return "promoted", _row(event, record, policy_version=body.policy_version, promoted_by=body.by)


def _loaded(event: Event, record: Record) -> tuple[str, Row]:
    body = event.policy_loaded
    return "loaded", _row(event, record, policy_version=body.policy_version, process=body.process)


def _updated(event: Event, record: Record) -> tuple[str, Row]:
    body = event.policy_update
    return "updates", _row(event, record, policy_version=body.tamiyo_policy_version, payload_ref=body.payload_ref)


POLICIES: Final = Projection(
    name="policies",
    what="policies: trained, validated, rejected, promoted and loaded, version by version",
    owner="worker",
    sources=(POLICIES_TOPIC,),
    folder="policies",
    rows={
        "policy_trained": _trained,
        "policy_validated": _validated,
        "policy_rejected": _rejected,
        "policy_promoted": _promoted,
        "policy_loaded": _loaded,
        "policy_update": _updated,
    },
    views=("policies",),
)
