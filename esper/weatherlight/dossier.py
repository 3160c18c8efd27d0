"""What a run is told about blueprints before it begins, read from its data folder's archive."""

from __future__ import annotations

from pathlib import Path

from contracts.leyline.v1.event_pb2 import BlueprintApproved
from esper.karn.approval import Approvals, evolve_approvals
from esper.karn.dossier import Dossier, Outcomes, Sheet


def dossier_of(data_dir: Path, *, outcomes: bool = True) -> Dossier:
    """The dossier of a data folder; empty where nothing is archived yet.

    Without `outcomes` a run does not learn from those before it. Approvals and risk data sheets count always.
    """
    archive = data_dir / "archive"
    if not archive.is_dir():
        return Dossier()
    from projections import open_history  # noqa: PLC0415 - DuckDB is imported where there is something to read
    from projections.dossier import read_dossier  # noqa: PLC0415

    with open_history(archive) as history:
        rows = read_dossier(history, outcomes=outcomes)
    approvals: Approvals = {}
    for blueprint_id, approved, by, why in rows.approvals:
        event = BlueprintApproved(blueprint_id=blueprint_id, approved=approved, by=by, why=why)
        approvals = evolve_approvals(approvals, event)
    return Dossier(
        dict(approvals),
        tuple(Sheet(**row) for row in rows.sheets),
        tuple(Outcomes(**row) for row in rows.outcomes),
    )
