"""What the history knows of blueprints: approvals, stored versions and outcomes; nothing where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.cli.read import history_of
from esper.karn.blueprint import Blueprint

if TYPE_CHECKING:
    from projections.history import History

Row = dict[str, Any]

WAY_TO_APPROVAL: Final = "esper blueprints approve {} --by YOU --why REASON"


class Known:
    """Answers about blueprints from one history, or from none."""

    def __init__(self, history: History | None) -> None:
        self.history = history

    def approvals(self) -> dict[str, Row]:
        """The last word on every blueprint that anybody spoke of: approved, said_by, why, recorded_at."""
        rows = self.rows("SELECT blueprint_id, approved, said_by, why, recorded_at FROM approvals WHERE holds")
        return {row.pop("blueprint_id"): row for row in rows}

    def artifacts(self, blueprint_id: str | None = None) -> dict[str, list[Row]]:
        """The stored versions of one blueprint or of all, in order of versions."""
        return self._by_blueprint("SELECT * FROM artifacts", blueprint_id, "version")

    def outcomes(self, blueprint_id: str | None = None) -> dict[str, list[Row]]:
        """What became of the seeds of one blueprint or of all, a row per shape of site."""
        return self._by_blueprint("SELECT * FROM blueprint_outcomes", blueprint_id, "germinated DESC")

    def rows(self, query: str, parameters: list[Any] | dict[str, Any] | None = None) -> list[Row]:
        """The answer's rows by the names of its columns; none where there is no history."""
        if self.history is None:
            return []
        answer = self.history.execute(query, parameters)
        names = [column[0] for column in answer.description]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]

    def _by_blueprint(self, query: str, blueprint_id: str | None, order: str) -> dict[str, list[Row]]:
        where, values = (" WHERE blueprint_id = ?", [blueprint_id]) if blueprint_id else ("", [])
        found: dict[str, list[Row]] = {}
        for row in self.rows(f"{query}{where} ORDER BY blueprint_id, {order}", values):
            found.setdefault(row["blueprint_id"], []).append(row)
        return found


@contextmanager
def known_of(data_dir: Path) -> Iterator[Known]:
    """What the data folder's history knows, nothing where it has none: the catalogue is there before any run."""
    if (data_dir / "archive").is_dir():
        with history_of(data_dir) as history:
            yield Known(history)
    else:
        yield Known(None)


def standing(blueprint: Blueprint, approval: Row | None) -> str:
    """Whether a blueprint may be used, in a few words."""
    approved = approval is not None and approval["approved"]
    if blueprint.quarantine_only:
        return "drill only, approved" if approved else "drill only"
    if not blueprint.approval_required:
        return "not needed"
    return f"by {approval['said_by']}" if approved and approval is not None else "needed"


def facts_json(blueprint: Blueprint, approval: Row | None) -> Row:
    """A blueprint's facts and its approval as JSON types."""
    return {
        "blueprint_id": blueprint.blueprint_id,
        "name": blueprint.name,
        "description": blueprint.description,
        "kind": list(blueprint.tags),
        "tier": blueprint.tier.replace("_", "-"),
        "stage": blueprint.stage,
        "risk": blueprint.risk,
        "parameters": {
            each.name: {"min": each.minimum, "max": each.maximum, "default": each.default, "integer": each.integer}
            for each in blueprint.settings
        },
        "shapes": list(blueprint.kinds),
        "approval_required": blueprint.approval_required,
        "quarantine_only": blueprint.quarantine_only,
        "approval": approval,
    }
