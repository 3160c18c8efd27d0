"""`esper slo`: what is promised, and what is left of each error budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from esper.cli import RUN_FAILED
from esper.cli.history import history_of
from esper.cli.output import GREEN, RED, YELLOW, say, say_json_rows, styled, table
from esper.nissa.slos import OBJECTIVES
from projections.alert_queries import Row, slos

HEADERS: Final = ("objective", "promised", "asked", "bad", "budget left", "burn 1 h", "burn 6 h", "burn 1 d", "promise")
LITTLE: Final = 0.25


def slo_command(data_dir: Path, address: str | None, *, as_json: bool) -> int:
    """Print every objective; 1 where 40 % of a budget went within a day."""
    with history_of(data_dir, address) as history:
        rows = slos(history)
    if as_json:
        say_json_rows(rows)
    else:
        say(table(HEADERS, [_cells(row) for row in rows], right=(1, 2, 3, 4, 5, 6, 7)))
    return RUN_FAILED if any(row["burning"] for row in rows) else 0


def _cells(row: Row) -> tuple[Any, ...]:
    left = row["budget_left"]
    colour = RED if row["burning"] or left == 0.0 else YELLOW if left < LITTLE else GREEN
    promise = next((each.promise for each in OBJECTIVES if each.name == row["slo"]), "told of by telemetry")
    burns = (f"{row[name]:.2g}" for name in ("burn_1h", "burn_6h", "burn_1d"))
    share = f"{100 * row['objective']:g} %"
    return (row["slo"], share, row["asked"], row["bad"], styled(f"{100 * left:.0f} %", colour), *burns, promise)
