"""What is asked of a history about blueprints: approvals, data sheets, stored versions, outcomes, and a whole life."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from contracts.leyline.v1.leyline_pb2 import HandlingClass, HazardBand
from contracts.topics import BLUEPRINTS
from projections.run_queries import rows
from projections.views import read_sql

if TYPE_CHECKING:
    from projections.history import History


Row = dict[str, Any]


_IN_RUNS: Final = """
WITH attached AS (
    SELECT DISTINCT ON (event_id) run_id, seed_id, epoch, recorded_at_ns, form, artifact_ref, module_parameters, trouble
    FROM log.kernel_attached AS fact
    WHERE blueprint_id = $blueprint AND log_verdict = 1
        AND survives(fact.run_id, fact.log_offset, fact.sequence)
    ORDER BY log_offset
), swapped AS (
    SELECT DISTINCT ON (event_id) run_id, seed_id, epoch, recorded_at_ns, from_form, to_form
    FROM log.kernel_swapped AS fact
    WHERE blueprint_id = $blueprint AND log_verdict = 1
        AND survives(fact.run_id, fact.log_offset, fact.sequence)
    ORDER BY log_offset
), ended AS (
    SELECT run_id, seed_id, site, epoch, to_stage, reason, recorded_at
    FROM transitions
    WHERE blueprint_id = $blueprint AND surviving AND to_stage IN ('FOSSILIZED', 'CULLED')
)
SELECT moment(recorded_at_ns) AS at, 'attached' AS what, run_id, seed_id, epoch, form AS said, artifact_ref,
    module_parameters AS parameters, coalesce(trouble, '') AS trouble
FROM attached
UNION ALL
SELECT moment(recorded_at_ns), 'swapped', run_id, seed_id, epoch, from_form || ' to ' || to_form, NULL, NULL, ''
FROM swapped
UNION ALL
SELECT recorded_at, to_stage, run_id, seed_id, epoch, reason, NULL, NULL, '' FROM ended
"""


def approvals(history: History) -> dict[str, Row]:
    """The last approval or withdrawal of each blueprint that has one: approved, said_by, why, recorded_at."""
    found = rows(history, "SELECT blueprint_id, approved, said_by, why, recorded_at FROM approvals WHERE holds")
    return {row.pop("blueprint_id"): row for row in found}


def artifacts(history: History, blueprint_id: str | None = None) -> dict[str, list[Row]]:
    """The stored versions of one blueprint or of all, in order of versions."""
    return _by_blueprint(history, "artifacts", blueprint_id, "version")


def outcomes(history: History, blueprint_id: str | None = None) -> dict[str, list[Row]]:
    """What became of the seeds of one blueprint or of all, a row per shape of site."""
    return _by_blueprint(history, "blueprint_outcomes", blueprint_id, "germinated DESC")


def topic_events(history: History, blueprint_id: str, bodies: Iterable[str]) -> Iterator[Row]:
    """The blueprint's events of these types: `log_raw` and `at`; an event that was delivered twice counts once."""
    parts = [
        f'SELECT log_raw, recorded_at_ns, log_offset, event_id FROM log."{name}" WHERE log_key = ?'  # noqa: S608  ours
        for name in BLUEPRINTS.bodies
        if name in set(bodies)
    ]
    once = f"SELECT DISTINCT ON (event_id) * FROM ({' UNION ALL '.join(parts)}) ORDER BY log_offset"  # noqa: S608
    query = f"SELECT log_raw, moment(recorded_at_ns) AS at FROM ({once}) ORDER BY log_offset"  # noqa: S608
    yield from rows(history, query, [blueprint_id.encode()] * len(parts))


def in_runs(history: History, blueprint_id: str) -> list[Row]:
    """Where the blueprint's kernels were attached and swapped in runs, and how its seeds ended there."""
    return rows(history, _IN_RUNS, {"blueprint": blueprint_id})


def _by_blueprint(history: History, view: str, blueprint_id: str | None, order: str) -> dict[str, list[Row]]:
    where, values = (" WHERE blueprint_id = ?", [blueprint_id]) if blueprint_id else ("", [])
    found: dict[str, list[Row]] = {}
    for row in rows(history, f"SELECT * FROM {view}{where} ORDER BY blueprint_id, {order}", values):  # noqa: S608  ours
        found.setdefault(row["blueprint_id"], []).append(row)
    return found


@dataclass(frozen=True, slots=True)
class DossierRows:
    """`approvals` are (blueprint id, approved, by, why), the oldest first; the others are rows by their names."""

    approvals: list[tuple[str, bool, str, str]]
    sheets: list[dict[str, Any]]
    outcomes: list[dict[str, Any]]


def read_dossier(history: History, *, outcomes: bool) -> DossierRows:
    """All of it as the newest manifest has it; without `outcomes` those are not looked for."""
    approvals = history.execute(
        'SELECT blueprint_id, approved, "by", why FROM log.blueprint_approved ORDER BY log_partition, log_offset'
    ).fetchall()
    sheets = history.execute(
        "SELECT bsds.blueprint_id, bsds.risk_score, bsds.hazard_band, bsds.handling_class FROM log.bsds_issued "
        "QUALIFY row_number() OVER (PARTITION BY bsds.blueprint_id ORDER BY log_offset DESC) = 1 ORDER BY ALL"
    ).fetchall()
    return DossierRows(
        approvals,
        [
            {
                "blueprint_id": blueprint_id,
                "risk_score": risk_score,
                "hazard_band": HazardBand.Name(band).removeprefix("HAZARD_BAND_"),
                "handling_class": HandlingClass.Name(handling).removeprefix("HANDLING_CLASS_"),
            }
            for blueprint_id, risk_score, band, handling in sheets
            if band in HazardBand.values() and handling in HandlingClass.values()
        ],
        _rows(history, read_sql("outcomes")) if outcomes else [],
    )


def _rows(history: History, query: str) -> list[dict[str, Any]]:
    answer = history.execute(query)
    names = [column[0] for column in answer.description]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
