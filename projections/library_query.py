"""Queries of the library: by id, tier, stage, tag and site, over every version that is stored."""

from __future__ import annotations

import operator
from typing import Any, Final

import duckdb

from esper.urza.version import Place, Query, Version

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
