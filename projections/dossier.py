"""What the archive knows about blueprints, as rows: approvals in their order, the newest sheets, and outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contracts.leyline.v1.leyline_pb2 import HandlingClass, HazardBand
from projections.history import History
from projections.views import read_sql


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
