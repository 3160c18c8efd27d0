"""One event, one row: what of each body the library keeps. `versions.sql` makes the catalogue of these rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from esper.leyline.envelope import Event
from esper.urza.version import settings_key
from projections.projection import Make, Row, row
from projections.records import Record


def _row(event: Event, record: Record, blueprint_id: str, **columns: Any) -> Row:
    return row(event, record, blueprint_id=blueprint_id, **columns)


def _registered(event: Event, record: Record) -> tuple[str, Row]:
    body = event.blueprint_registered
    one = body.descriptor
    bounds = {name: [limit.min_value, limit.max_value] for name, limit in sorted(one.allowed_parameters.items())}
    return "registered", _row(
        event,
        record,
        one.blueprint_id,
        name=one.name,
        tier=one.tier,
        stage=one.stage,
        risk=one.risk,
        quarantine_only=one.quarantine_only,
        approval_required=one.approval_required,
        description=one.description,
        bounds=json.dumps(bounds),
        shape_kinds=list(body.shape_kinds),
        tags=[tag.casefold() for tag in body.tags],
    )


def _approved(event: Event, record: Record) -> tuple[str, Row]:
    body = event.blueprint_approved
    columns = {"said_at_ms": record.timestamp, "approved": body.approved, "said_by": body.by, "why": body.why}
    return "approvals", _row(event, record, body.blueprint_id, **columns)


def _requested(event: Event, record: Record) -> tuple[str, Row]:
    body = event.compile_requested
    return "requested", _row(
        event,
        record,
        body.blueprint_id,
        job_id=body.job_id,
        pipeline=body.pipeline,
        shape_kind=body.shape_kind,
        shape=list(body.shape),
        parameters=settings_key(body.parameters),
    )


def _finished(event: Event, record: Record) -> tuple[str, Row]:
    body = event.compile_finished
    names = ("job_id", "artifact_ref", "compile_ms", "eager_us", "compiled_us", "prewarm_p50_ms", "prewarm_p95_ms")
    return "finished", _row(event, record, body.blueprint_id, **{name: getattr(body, name) for name in names})


def _stored(event: Event, record: Record) -> tuple[str, Row]:
    body = event.artifact_stored
    return "stored", _row(
        event,
        record,
        body.blueprint_id,
        stored_at_ms=record.timestamp,
        artifact_ref=body.artifact_ref,
        version=body.artifact_version,
        checksum=body.checksum,
        guard_digest=body.guard_digest,
        bytes=body.bytes,
        form=body.form,
    )


def _sheet(event: Event, record: Record) -> tuple[str, Row]:
    body = event.bsds_issued.bsds
    names = ("risk_score", "hazard_band", "handling_class", "resource_profile", "recommendation", "provenance")
    return "sheets", _row(event, record, body.blueprint_id, **{name: getattr(body, name) for name in names})


def _attached(event: Event, record: Record) -> tuple[str, Row]:
    body = event.kernel_attached
    columns = {"artifact_ref": body.artifact_ref, "run_id": event.run_id}
    return "attached", _row(event, record, body.blueprint_id, **columns)


ROWS: Final[Mapping[str, Make]] = {
    "blueprint_registered": _registered,
    "blueprint_approved": _approved,
    "compile_requested": _requested,
    "compile_finished": _finished,
    "artifact_stored": _stored,
    "bsds_issued": _sheet,
    "kernel_attached": _attached,
}
"""By the name of the body; no other body says anything about the library."""
