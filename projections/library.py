"""Urza's catalogue: the log's events about blueprints, one row an event, and every stored version made of them.

Delete its file and the same library comes back (R-URZA-7). Queries are by id, tier, stage, tag and site.
"""

from __future__ import annotations

import json
import logging
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import duckdb

from contracts.topics import BLUEPRINTS, RUNS
from esper.leyline.envelope import Event
from esper.leyline.signing import KeyRing
from esper.urza.version import Place, Query, Version, settings_key
from projections.projection import Kept, Make, Projection, Row, row
from projections.records import Record
from projections.store import Locked, Store


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


_COLUMNS: Final = (
    "artifact_ref",
    "blueprint_id",
    "version",
    "checksum",
    "guard_digest",
    "bytes",
    "form",
    "stored_at_ms",
    "compile_ms",
    "eager_us",
    "compiled_us",
    "prewarm_p50_ms",
    "prewarm_p95_ms",
    "attachments",
    "name",
    "tier",
    "stage",
    "risk",
    "hazard_band",
    "handling_class",
    "is_approved",
    "quarantine_only",
    "state",
    "since_ms",
    "tags",
    "shape_kind",
    "shape",
    "parameters",
)


_PLAIN: Final = _COLUMNS[:-4]


def find(connection: duckdb.DuckDBPyConnection, query: Query) -> list[Version]:
    """The versions that `query` asks for, best first."""
    conditions, values = _where(query)
    connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM library WHERE {' AND '.join(conditions)} "  # noqa: S608  names of ours
        "ORDER BY risk, blueprint_id, place DESC LIMIT ?",
        [*values, query.limit],
    )
    return [_version(row) for row in connection.fetchall()]


def _where(query: Query) -> tuple[list[str], list[Any]]:
    conditions, values = ["true"], list[Any]()
    for column, wanted in (("blueprint_id", query.blueprint_id), ("tier", query.tier), ("stage", query.stage)):
        if wanted is not None:
            conditions.append(f"{column} = ?")
            values.append(wanted)
    if query.tags:
        conditions.append(f"list_has_{query.match_tags}(tags, ?)")
        values.append([tag.casefold() for tag in query.tags])
    if query.place is not None:
        conditions.append("shape_kind = ? AND shape = ? AND parameters = ?")
        values += [query.place.shape_kind, list(query.place.shape), query.place.parameters]
    if not query.older:
        conditions.append("state = 'active'")
    if not query.quarantine:
        conditions.append("NOT quarantine_only")
    if not query.unapproved:
        conditions.append("is_approved")
    return conditions, values


_plain: Final = operator.itemgetter(slice(len(_PLAIN)))


def _version(row: tuple[Any, ...]) -> Version:
    tags, shape_kind, shape, parameters = row[len(_PLAIN) :]
    plain = dict(zip(_PLAIN, _plain(row), strict=True))
    return Version(tags=tuple(tags), place=Place(shape_kind, tuple(shape), parameters), **plain)


URZA: Final = Projection(
    name="urza",
    what="the library of kernels: every stored version, its approval, timings and state",
    owner="worker",
    sources=(BLUEPRINTS, RUNS),
    folder="library",
    rows=ROWS,
    views=("versions",),
    kept=(Kept("library", "versions", "blueprint_id"),),
)


"""Both topics are kept for ever, so the library can always be made again."""


_log = logging.getLogger(__name__)


class Library(Store):
    """The catalogue in `path`, or in memory where that is None.

    Where another process has the file open, this one folds the log into memory: the outcome is the same, because both
    are folds of one log.
    """

    def __init__(self, path: Path | None, ring: KeyRing | None) -> None:
        try:
            super().__init__(URZA, path, ring)
        except Locked:
            _log.warning("another process has %s open: this one keeps its own library in memory", path)
            super().__init__(URZA, None, ring)

    def reader(self) -> LibraryReader:
        """A view of what is committed, for a thread of its own."""
        return LibraryReader(self.cursor())


class LibraryReader:
    """Looks versions up: the `Catalogue` that Urza asks. For one thread; `interrupt` may come from any."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def find(self, query: Query) -> list[Version]:
        """The versions that `query` asks for; raises duckdb.Error where it was interrupted."""
        return find(self._connection, query)

    def count(self) -> int:
        """How many versions are stored."""
        row = self._connection.execute("SELECT count(*) FROM library").fetchone()
        assert row is not None
        return int(row[0])

    def announced(self) -> set[bytes]:
        """The ids of the events that registered templates and issued their risk sheets."""
        rows = self._connection.execute("SELECT event_id FROM registered UNION SELECT event_id FROM sheets").fetchall()
        return {bytes(event_id) for (event_id,) in rows}

    def jobs(self) -> set[str]:
        """The ids of the compile jobs that were asked for."""
        return {str(job_id) for (job_id,) in self._connection.execute("SELECT job_id FROM requested").fetchall()}

    def interrupt(self) -> None:
        """End the lookup that is running now."""
        self._connection.interrupt()

    def close(self) -> None:
        """Give the connection back; nothing can be asked any more."""
        self._connection.close()
        # Without this DuckDB complains at the interpreter's end where someone still holds the reader.
        del self._connection
