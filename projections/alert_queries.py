"""What is asked of a history about alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from projections.history import History

Row = dict[str, Any]


def alerts(history: History) -> list[Row]:
    """The rows of the view `alerts`, the newest first, each with its id in hex digits as `id`."""
    found = history.execute("SELECT * EXCLUDE (log_offset), hex(alert_id) AS id FROM alerts ORDER BY fired_at DESC")
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
