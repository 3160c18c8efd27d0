"""The rows of finished runs, one JSON object a line: appended and on the disk at once, so that nothing is run twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench.growth.jobs import Job, row_key

Row = dict[str, Any]

NEEDED: Final = ("task", "arm", "schedule", "seed", "on", "size", "rate", "config", "code", "flops", "steps")


@dataclass(slots=True)
class Ledger:
    """The file of rows. `code` is the version of the code that runs now.

    A row is stale where the job at its place has another configuration now, or, unless `keep_stale`, where other code
    made it. A last line that was cut off, and lines of another form, are left out and gone at the next `tidy`.
    """

    path: Path
    code: str
    keep_stale: bool = False
    rows: dict[tuple[str, ...], Row] = field(default_factory=dict)
    unreadable: int = 0

    def __post_init__(self) -> None:
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        for line in lines:
            row = _parsed(line)
            if row is None:
                self.unreadable += 1
            else:
                self.rows[row_key(row)] = row

    def find(self, job: Job) -> Row | None:
        """The row of this job, if there is one that still holds."""
        row = self.rows.get(job.key)
        if row is None or row["config"] != job.digest() or (row["code"] != self.code and not self.keep_stale):
            return None
        return row

    def is_stale(self, job: Job) -> bool:
        """Whether there is a row at the job's place that does not hold any more."""
        return job.key in self.rows and self.find(job) is None

    def other_code(self) -> int:
        """How many rows other code has made."""
        return sum(row["code"] != self.code for row in self.rows.values())

    def append(self, row: Row) -> None:
        """Write the row so that it outlives this process and the machine."""
        self.rows[row_key(row)] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def tidy(self) -> None:
        """Write the file anew, with the rows that hold their place alone; a crash leaves the old file or the new."""
        if not self.path.is_file():
            return
        fresh = self.path.with_suffix(".tmp")
        fresh.write_text("".join(json.dumps(row) + "\n" for row in self.rows.values()))
        fresh.replace(self.path)

    def of(self, **wanted: Any) -> list[Row]:
        """The rows that have these values, by seed."""
        return matching(self.rows.values(), **wanted)


def matching(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows that have these values, by seed."""
    chosen = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return sorted(chosen, key=lambda row: row["seed"])


def _parsed(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and all(name in row for name in NEEDED) else None
