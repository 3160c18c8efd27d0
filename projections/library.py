"""Urza's catalogue: the log's events about blueprints, one row an event, and every stored version made of them.

Delete its file and the same library comes back (R-URZA-7).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import duckdb

from contracts.topics import BLUEPRINTS, RUNS
from esper.leyline.signing import KeyRing
from esper.urza.version import Query, Version
from projections.library_query import find
from projections.library_rows import ROWS
from projections.projection import Kept, Projection
from projections.store import Locked, Store

URZA: Final = Projection(
    name="urza",
    what="the library of kernels: every stored version, its approval, timings and state",
    owner="worker",
    sources=(BLUEPRINTS, RUNS),
    folder="library",
    rows=ROWS,
    views=("versions",),
    kept=(Kept("library", "versions", "blueprint_id"),),
)
"""Both topics are kept for ever, so the library can always be made again."""

_log = logging.getLogger(__name__)


class Library(Store):
    """The catalogue in `path`, or in memory where that is None.

    Where another process has the file open, this one folds the log into memory: the outcome is the same, because both
    are folds of one log.
    """

    def __init__(self, path: Path | None, ring: KeyRing | None) -> None:
        try:
            super().__init__(URZA, path, ring)
        except Locked:
            _log.warning("another process has %s open: this one keeps its own library in memory", path)
            super().__init__(URZA, None, ring)

    def reader(self) -> LibraryReader:
        """A view of what is committed, for a thread of its own."""
        return LibraryReader(self.cursor())


class LibraryReader:
    """Looks versions up: the `Catalogue` that Urza asks. For one thread; `interrupt` may come from any."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def find(self, query: Query) -> list[Version]:
        """The versions that `query` asks for; raises duckdb.Error where it was interrupted."""
        return find(self._connection, query)

    def count(self) -> int:
        """How many versions are stored."""
        row = self._connection.execute("SELECT count(*) FROM library").fetchone()
        assert row is not None
        return int(row[0])

    def announced(self) -> set[bytes]:
        """The ids of the events that registered templates and issued their risk sheets."""
        rows = self._connection.execute("SELECT event_id FROM registered UNION SELECT event_id FROM sheets").fetchall()
        return {bytes(event_id) for (event_id,) in rows}

    def jobs(self) -> set[str]:
        """The ids of the compile jobs that were asked for."""
        return {str(job_id) for (job_id,) in self._connection.execute("SELECT job_id FROM requested").fetchall()}

    def interrupt(self) -> None:
        """End the lookup that is running now."""
        self._connection.interrupt()

    def close(self) -> None:
        """Give the connection back; nothing can be asked any more."""
        self._connection.close()
        # Without this DuckDB complains at the interpreter's end where someone still holds the reader.
        del self._connection
