"""History in SQL: an in-memory DuckDB whose views read exactly the files that the archive's manifest lists.

Schemas: `log` has one view per body type with the archive's own columns (see `columns`), `empty` the same tables
without rows, and `main` the readable views of `sql/`: `runs`, `epochs`, `decisions`, `commands`, `transitions`,
`gates`, `seeds`, `reports`, `checkpoints`, `telemetry`, `events`, `blueprint_outcomes`, `approvals`, `artifacts`, and
the fold (`fold_*`). Any number of processes may read at once, with or without a writer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import duckdb

from contracts.topics import RUNS
from projections import manifest, views
from projections.columns import BODIES, ENVELOPE, LOG_COLUMNS, TABLES, duckdb_columns, shape_of
from projections.manifest import FILES, FileEntry, Manifest
from projections.quoting import quoted
from projections.verify import Damage, damaged

if TYPE_CHECKING:
    from projections.transfer import Mirror

_SHARED: Final = (*LOG_COLUMNS, *(field.name for field in ENVELOPE))
_UNIONS: Final = {"every": frozenset(BODIES), "facts": frozenset(RUNS.bodies)}
"""Views over many tables at once: every event, and the facts of runs."""

_log = logging.getLogger(__name__)


class History:
    """A connection over one archive. `refresh` looks for a newer manifest; `execute` and `sql` do so first.

    `damage` are the files that were left out because their bytes are not those that were written, `unknown` how many
    events there are of types that only a newer Esper knows. Where a file of facts is left out, no fact counts as
    regular any more, so that the fold misses what was in it and says so. Thread-bound, as
    DuckDB connections are: use `connection.cursor()` for another thread.
    """

    def __init__(self, archive: Path, source: Mirror | None = None) -> None:
        self.archive = archive
        self._source = source
        self.manifest = Manifest(generation=-1)
        self.damage: list[Damage] = []
        self.unknown: dict[str, int] = {}
        self.connection = duckdb.connect(":memory:")
        self._listed: dict[str, tuple[str, ...]] = {}
        self._hints = True
        self._forks: bool | None = None  # whether any run is one; None before the tables of forks were made
        self.connection.execute(";\n".join(views.tables()))
        self.refresh()
        self.connection.execute(";\n".join(views.views()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        self.connection.close()

    def execute(self, query: str, parameters: Sequence[Any] | dict[str, Any] | None = None) -> Any:
        """Run SQL over the newest manifest and return the connection, which has the rows."""
        self.refresh()
        return self.connection.execute(query, parameters)

    def sql(self, query: str) -> Any:
        """A DuckDB relation over the newest manifest."""
        self.refresh()
        return self.connection.sql(query)

    def refresh(self) -> bool:
        """Point the views at the newest manifest; False where there is no newer one.

        Files whose bytes are not those that were written are left out, logged, and listed in `damage`.
        """
        elsewhere = list(self._source.refresh()) if self._source is not None else []
        newest = manifest.load(self.archive)
        if newest.generation == self.manifest.generation:
            return False
        missing = {damage.name for damage in elsewhere}
        known = {entry.name for entry in self.manifest.files} - {damage.name for damage in self.damage}
        unknown = [entry for entry in newest.files if entry.name not in known | missing]
        found = [*elsewhere, *damaged(self.archive, unknown)]
        self.manifest = newest
        self.leave_out(found)
        return True

    def leave_out(self, damage: list[Damage]) -> None:
        """Read the manifest's files but for these, and say so once."""
        for each in damage:
            if each not in self.damage:
                _log.warning("%s", each)
        self.damage = damage
        bad = {each.name for each in damage}
        entries = [entry for entry in self.manifest.files if entry.name not in bad]
        unknown = {entry.table: self.manifest.rows(entry.table) for entry in entries if entry.table not in TABLES}
        if unknown.keys() - self.unknown.keys():
            _log.warning("%s of a newer Esper are left out: this one does not know the type", _counted(unknown))
        self.unknown = unknown
        hints = not any(each.table in RUNS.bodies for each in damage)
        if hints != self._hints:  # then every view of facts reads otherwise
            self._hints, self._listed = hints, {}
        self._point(entries)

    def _point(self, entries: Iterable[FileEntry]) -> None:
        """Make the views of `log` read `entries`, and the small tables follow."""
        by_table: dict[str, list[FileEntry]] = {table: [] for table in TABLES}
        for entry in entries:
            if entry.table in by_table:  # a newer Esper may archive bodies that this one does not know
                by_table[entry.table].append(entry)
        listed = {table: tuple(entry.name for entry in held) for table, held in by_table.items()}
        changed = {table for table in TABLES if self._listed.get(table) != listed[table]}
        statements = self._pointing(by_table, changed)
        if statements:
            self.connection.execute(";\n".join(statements))
        self._follow_forks(changed)
        self._listed = listed

    def script(self) -> str:
        """The SQL that makes the same views in any DuckDB: what this connection was given, as one text."""
        by_table = {table: self.manifest.of(table) for table in TABLES}
        statements = [*views.tables(), *self._pointing(by_table, set(TABLES)), *views.of_forks(), *views.views()]
        return ";\n\n".join(statements) + ";\n"

    def _pointing(self, by_table: dict[str, list[FileEntry]], changed: set[str]) -> list[str]:
        """SQL that makes the views of the tables that `changed` read their files, and the small tables follow."""
        statements = [_view(table, self._reading(table, by_table[table])) for table in TABLES if table in changed]
        for union, tables in _UNIONS.items():
            if changed & tables:
                files = [entry for table in TABLES if table in tables for entry in by_table[table]]
                statements.append(_view(union, self._reading_shared(files)))
        return [*statements, *views.small(changed)]

    def _follow_forks(self, changed: set[str]) -> None:
        """Make the tables of forks anew where they may say something else now; planning them takes its time."""
        if not changed & _UNIONS["facts"]:
            return
        forks, went_behind = self.connection.execute(views.FORKS).fetchone() or (0, 0)
        if forks and (went_behind or changed & views.CLAIMS_AND_ROLLBACKS):
            self.connection.execute(";\n".join(views.of_forks()))
        elif not forks and self._forks is not False:
            self.connection.execute(";\n".join(views.of_forks(empty=True)))
        self._forks = bool(forks)

    def _reading(self, table: str, entries: list[FileEntry]) -> str:
        """SQL that reads one table: files of today's columns as they are, older shapes filled up with nulls."""
        by_shape: dict[str, list[FileEntry]] = {}
        for entry in entries:
            by_shape.setdefault(entry.shape, []).append(entry)
        empty = f'SELECT * FROM empty."{table}"'  # noqa: S608  a name of ours
        parts = [f"SELECT * FROM {self._scan(held)}" for held in by_shape.values()]  # noqa: S608  files of ours
        if not parts:
            return empty
        if list(by_shape) == [shape_of(table)]:
            return parts[0]
        names = ", ".join(f'"{name}"' for name in duckdb_columns(table))
        return f"SELECT {names} FROM ({' UNION ALL BY NAME '.join([empty, *parts])})"  # noqa: S608  names of ours

    def _reading_shared(self, entries: list[FileEntry]) -> str:
        """SQL that reads what all tables share from files of many: one scan, whatever else they hold."""
        source = self._scan(entries) if entries else 'empty."run_started"'
        return f"SELECT {', '.join(_SHARED)} FROM {source}"  # noqa: S608  names of ours

    def _scan(self, entries: list[FileEntry]) -> str:
        files = f"read_parquet([{', '.join(quoted(self.archive / FILES / entry.name) for entry in entries)}])"
        if self._hints:
            return files
        return f"(SELECT * REPLACE (if(log_regular, false, log_regular) AS log_regular) FROM {files})"  # noqa: S608  ours


def _counted(events: dict[str, int]) -> str:
    return ", ".join(f"{count} events of type {name}" for name, count in events.items())


def _view(name: str, query: str) -> str:
    return f'CREATE OR REPLACE VIEW log."{name}" AS {query}'
