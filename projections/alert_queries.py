"""What is asked of a history about alerts and objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from projections.history import History

Row = dict[str, Any]


def alerts(history: History) -> list[Row]:
    """The rows of the view `alerts`, the newest first, each with its id in hex digits as `id`."""
    return _rows(history, "SELECT * EXCLUDE (log_offset), hex(alert_id) AS id FROM alerts ORDER BY fired_at DESC")


def slos(history: History) -> list[Row]:
    """The rows of the view `slos`."""
    return _rows(history, "FROM slos")


def _rows(history: History, query: str) -> list[Row]:
    found = history.execute(query)
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
