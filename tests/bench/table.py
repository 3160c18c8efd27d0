"""The common form of what a benchmark measured, and the table that `python -m tests.bench` prints of it."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: `measured` in `unit`, on `fixture`; `limit` is the most it may be, or the least where `at_least`.

    A row without a limit stands there to be read beside others. NaN is a figure that could not be had: it has failed.
    """

    what: str
    measured: float
    unit: str
    fixture: str
    limit: float | None = None
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """`ok`, `FAILED`, or nothing where there is no limit."""
        if math.isnan(self.measured):
            return "FAILED"
        if self.limit is None:
            return ""
        kept = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return "ok" if kept else "FAILED"

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN: such a figure is null."""
        measured = None if math.isnan(self.measured) else self.measured
        limit = None if self.limit is None else {"at_least" if self.at_least else "at_most": self.limit}
        return {
            "what": self.what,
            "limit": limit,
            "measured": measured,
            "unit": self.unit,
            "fixture": self.fixture,
            "verdict": self.verdict,
        }


HEADER = "| what | limit | measured | fixture | verdict |\n|---|---|---|---|---|"


def line(row: Row) -> str:
    """The row as one line of a Markdown table."""
    sign = "≥" if row.at_least else "≤"
    limit = "" if row.limit is None else f"{sign} {figure(row.limit, row.unit)}"
    cells = (row.what, limit, figure(row.measured, row.unit), row.fixture, row.verdict)
    return f"| {' | '.join(cells)} |"


def figure(value: float, unit: str) -> str:
    """Three digits that matter, and the unit."""
    digits = 0 if not math.isfinite(value) or abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}".rstrip()


def failed(rows: Iterable[Row]) -> bool:
    """Whether any row has failed."""
    return any(row.verdict == "FAILED" for row in rows)


def rows_of(bench: str, *, full: bool) -> list[Row]:
    """What the benchmark of this name measures, asked for in a process of its own; its words go to stderr."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    rows: list[Row] = importlib.import_module(f"tests.bench.{bench}").rows(full=full)
    return rows
