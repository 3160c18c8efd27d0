"""Rows of finished rollouts, one JSON object a line: on the disk at once, so that nothing is trained twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from esper.errors import InvalidInput

Row = dict[str, Any]
FORMAT: Final = 1


class Key(NamedTuple):
    """The place of a row: of two with one key the newer holds. `kind` is control, run, state or rollout."""

    kind: str
    task: str
    seed: int
    epoch: int = 0
    action: str = ""
    order: int = 0


class Ledger:
    """The rows in `path` that were made with the settings `what`; those of other settings are kept and not read.

    Without `what` they are those of the newest row.

    A last line that was cut off is left out. Raises InvalidInput where the file cannot be read or written.
    """

    def __init__(self, path: Path, what: str | None = None) -> None:
        self.path = path
        self.rows: dict[Key, Row] = {}
        try:
            content = path.read_text() if path.is_file() else ""
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{path} cannot be read: {error}") from None
        self._cut_off = bool(content) and not content.endswith("\n")
        parsed = [row for row in map(_parsed, content.splitlines()) if row is not None]
        self.what = what if what is not None else str(parsed[-1]["what_of"]) if parsed else ""
        for row in parsed:
            if row["what_of"] == self.what:
                self.rows[_key_of(row)] = row

    def find(self, key: Key) -> Row | None:
        """The row at this place."""
        return self.rows.get(key)

    def of(self, kind: str) -> Iterator[Row]:
        """The rows of one kind."""
        return (row for key, row in self.rows.items() if key.kind == kind)

    def append(self, key: Key, values: Row) -> Row:
        """Write a row so that it outlives this process and the machine; returns it with its key."""
        row = {"format": FORMAT, "what_of": self.what, **key._asdict(), **values}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                # A line that was cut off ends here, or it would take this one with it.
                file.write("\n" * self._cut_off + json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self._cut_off = False
        except OSError as error:
            raise InvalidInput(f"{self.path} cannot be written: {error}") from None
        self.rows[key] = row
        return row


def _key_of(row: Row) -> Key:
    return Key(*(row[name] for name in Key._fields))


def _parsed(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(row, dict) and row.get("format") == FORMAT and "what_of" in row
    return row if whole and all(name in row for name in Key._fields) else None
