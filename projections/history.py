"""History in SQL: an in-memory DuckDB whose views read exactly the files that the archive's manifest lists.

Schemas: `log` has one view per body type with the archive's own columns (see `columns`), `empty` the same tables
without rows, and `main` the readable views of `sql/`: `runs`, `epochs`, `metrics`, `decisions`, `commands`,
`transitions`, `gates`, `seeds`, `reports`, `checkpoints`, `telemetry`, `hooks`, `events`, `blueprint_outcomes`,
`approvals`, `artifacts`, `alerts`, `slos`, `policies`, and what the facts come to (`accepted_facts`, `stops`,
`fold_state_at`, ...). Any number of processes may read at once, with or without a writer.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import duckdb

from contracts.topics import RUNS
from esper.errors import CorruptState
from esper.record.accept import Verdict
from projections import manifest, verdicts, views
from projections.columns import ENVELOPE, LOG_COLUMNS, TABLES, duckdb_columns, pattern, quoted, shape_of
from projections.manifest import FILES, VERDICTS, FileEntry, Manifest
from projections.parquet_pages import Chunk, unpacked_bytes
from projections.verdicts import with_verdicts
from projections.verify import Damage, damaged

if TYPE_CHECKING:
    from projections.transfer import Mirror

_SHARED: Final = (*LOG_COLUMNS, *(field.name for field in ENVELOPE))
_FACTS: Final = frozenset({*RUNS.bodies, "facts", "every"})
"""What of `log` has verdicts in it."""

LOOK_S: Final = 10.0
"""How often an open history sees whether files have changed under it, or were not looked at for too long."""
UNPACKED_RATIO: Final = 100
"""Events unpack to less than ten times their files (measured over nine runs); what claims more than this is left out"""
UNPACKED_BYTES: Final = 16 * 2**20
"""unless it is as small as this."""
FOOTER_BYTES: Final = 512 * 2**10
"""Of a Parquet file, which a reader takes whole into memory before it knows anything: ours have some ten kilobytes, and
DuckDB takes 420 bytes for every one that says nothing but that something follows."""
_OF_THE_QUERY: Final = (
    duckdb.ParserException,
    duckdb.SyntaxException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.PermissionException,
    duckdb.InterruptException,
)
"""Errors that no file is the cause of. For all others one may be: DuckDB has no error of its own for damaged bytes."""

_log = logging.getLogger(__name__)


class History:
    """A connection over one archive. `refresh` looks for a newer manifest; `execute` and `sql` do so first.

    A view is made when a query first names it: making all takes a quarter of a second. `connection` has them all.
    `damage` are the files that were left out because their bytes are not those that were written, `unknown` how many
    events there are of types that only a newer Esper knows. Where a file of facts is left out, the facts that are left
    are judged again, so that a run which lacks some is stopped there. Thread-bound, as DuckDB connections are.

    Its SQL reads the archive's files and nothing else: no other file, no address, no extension; `also` is a folder
    more, where an export is written.
    """

    def __init__(self, archive: Path, source: Mirror | None = None, *, also: Path | None = None) -> None:
        self.archive = archive
        self._source = source
        self.manifest = Manifest(generation=-1)
        self.damage: list[Damage] = []
        self.unknown: dict[str, int] = {}
        self._looked_at = -LOOK_S
        self._connection = duckdb.connect(":memory:")
        self._entries: dict[str, tuple[FileEntry, ...]] = {}
        self._made: set[str] = set()
        self._making = threading.RLock()
        self._shapes: dict[tuple[str, str], bool] = {}  # whether files of a table and shape have verdicts
        self._judged = False
        self._undecided: tuple[str, ...] = ()
        self._otherwise: str | None = None  # where `decided.verdicts` counts: the verdict of facts that are not in it
        self._connection.execute(";\n".join([*views.settings(), *_confined(archive / FILES, also)]))
        self.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def reopened(self, *, also: Path) -> History:
        """The same history on a connection of its own, whose SQL may write into the folder `also`, which is there."""
        return History(self.archive, self._source, also=also)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def interrupt(self) -> None:
        """End the query that another thread waits for; DuckDB raises an error there."""
        self._connection.interrupt()

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The connection, with every view made."""
        for name in (*views.RELATIONS, *views.UNIONS, *TABLES):
            self._make(name)
        return self._connection

    def execute(self, query: str, parameters: Sequence[Any] | dict[str, Any] | None = None) -> Any:
        """Run SQL over the newest manifest and return the connection, which has the rows."""
        self.refresh()
        with self.naming_damage():
            self._make_for(query)
            return self._connection.execute(query, parameters)

    def sql(self, query: str) -> Any:
        """A DuckDB relation over the newest manifest."""
        self.refresh()
        self._make_for(query)
        return self._connection.sql(query)

    def cursor(self, query: str, parameters: Sequence[Any] | dict[str, Any] | None = None) -> Any:
        """A cursor of its own with the answer, over the manifest as it was read last."""
        with self.naming_damage():
            self._make_for(query)
            return self._connection.cursor().execute(query, parameters)

    @contextmanager
    def naming_damage(self) -> Iterator[None]:
        """A query that fails over a damaged file says so: CorruptState names the file and what repairs it.

        Then the file is left out, so that the same query answers without it. All other errors stay what they are.
        """
        try:
            yield
        except duckdb.Error as error:
            if isinstance(error, _OF_THE_QUERY):
                raise
            before = {each.name for each in self.damage}
            found = damaged(self.archive, self.manifest.files, trust_cache=False)
            new = [each for each in found if each.name not in before]
            if not new:
                raise
            self.leave_out([*self.damage, *new])
            told = "; ".join(map(str, new))
            raise CorruptState(f"{told}; ask again to have the answer without them") from error

    def refresh(self) -> bool:
        """Point the views at the newest manifest; False where there is no newer one.

        Files whose bytes are not those that were written are left out, logged, and listed in `damage`.
        """
        elsewhere = list(self._source.refresh()) if self._source is not None else []
        newest = manifest.load(self.archive)
        if newest.generation == self.manifest.generation:
            self._look_again()
            return False
        missing = {damage.name for damage in elsewhere}
        known = {entry.name for entry in self.manifest.files} - {damage.name for damage in self.damage}
        unknown = [entry for entry in newest.files if entry.name not in known | missing]
        found = [*elsewhere, *damaged(self.archive, unknown, look=self.unpacks_to_more)]
        self.manifest = newest
        self._looked_at = time.monotonic()
        self.leave_out(found)
        return True

    def _look_again(self) -> None:
        """Leave out what has changed on the disk since it was compared; what is not sure any more is compared again."""
        if time.monotonic() - self._looked_at < LOOK_S:
            return
        known = {each.name for each in self.damage}
        files = [entry for entry in self.manifest.files if entry.name not in known]
        found = damaged(self.archive, files, look=self.unpacks_to_more)
        self._looked_at = time.monotonic()
        if found:
            self.leave_out([*self.damage, *found])

    def unpacks_to_more(self, entries: Sequence[FileEntry]) -> dict[str, str]:
        """What is wrong with files that are as they were written, where somebody else wrote them to fill the memory.

        By name. Many are asked in one query, which takes a third of the time of as many queries.
        """
        lying = {entry.name: why for entry in entries if (why := _of_the_footer(self.archive, entry))}
        if lying:
            return lying | self.unpacks_to_more([entry for entry in entries if entry.name not in lying])
        try:
            footers = self._footers(entries)
        except duckdb.Error as error:
            if len(entries) > 1:  # one of them it is
                return {name: why for each in entries for name, why in self.unpacks_to_more([each]).items()}
            return {entries[0].name: f"is no Parquet file ({str(error).splitlines()[0]})"}
        found = {}
        for entry in entries:
            if problem := self._of_the_pages(entry, *footers[entry.name]):
                found[entry.name] = problem
        return found

    def _of_the_pages(self, entry: FileEntry, rows: int, chunks: Sequence[Chunk]) -> str | None:
        """What is wrong with how many rows a file has, or with what it unpacks to, which the pages themselves say."""
        if rows != entry.rows:
            return f"holds {rows} rows, and the manifest says {entry.rows}"
        try:
            size = unpacked_bytes(self.archive / FILES / entry.name, chunks)
        except (OSError, ValueError) as error:
            return f"cannot be unpacked ({error})"
        if size > max(UNPACKED_BYTES, UNPACKED_RATIO * entry.size):
            return f"unpacks from {entry.size} to {size} bytes, which no file of events does"
        return None

    def _footers(self, entries: Sequence[FileEntry]) -> dict[str, tuple[int, list[Chunk]]]:
        """How many rows files have, by their names, and where the chunks of their columns lie."""
        if not entries:
            return {}
        cursor = self._connection.cursor()
        paths = [pattern(self.archive / FILES / entry.name) for entry in entries]
        rows = cursor.execute("SELECT file_name, num_rows FROM parquet_file_metadata($1)", [paths]).fetchall()
        found: dict[str, tuple[int, list[Chunk]]] = {Path(path).name: (count, []) for path, count in rows}
        query = (
            "SELECT file_name, num_values, total_compressed_size, data_page_offset, dictionary_page_offset "
            "FROM parquet_metadata($1)"
        )
        for path, *chunk in cursor.execute(query, [paths]).fetchall():
            found[Path(path).name][1].append(Chunk(*chunk))
        return found

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
        self._point(entries)

    def undecided(self) -> tuple[str, ...]:
        """The forks that went back behind their beginning: what counts of them takes their parents' facts."""
        self._judge()
        return self._undecided

    def script(self) -> str:
        """The SQL that makes the same views in any DuckDB: what this connection was given, as one text."""
        self._judge()
        names = (*TABLES, *views.UNIONS, *views.RELATIONS)
        statements = [*views.settings(), *map(views.empty, TABLES), *verdicts.inserts(self._connection)]
        return ";\n\n".join([*statements, *(self._definition(name) for name in names)]) + ";\n"

    def _point(self, entries: Iterable[FileEntry]) -> None:
        """Make what was made already read `entries`."""
        by_table: dict[str, list[FileEntry]] = {table: [] for table in TABLES}
        for entry in entries:
            if entry.table in by_table:  # a newer Esper may archive bodies that this one does not know
                by_table[entry.table].append(entry)
        listed = {table: tuple(held) for table, held in by_table.items()}
        changed = {table for table in TABLES if self._entries.get(table) != listed[table]}
        self._entries = listed
        if changed & _FACTS:
            if self._otherwise or self.judged_here or self.manifest.undecided:
                changed |= {*RUNS.bodies}
            self._judged, self._otherwise = False, None
        self._make_anew(changed)

    def _make_anew(self, changed: set[str]) -> None:
        """Those views and tables that were made of tables of the log that `changed`."""
        unions = {name for name, tables in views.UNIONS.items() if tables & changed}
        stale = [name for name in (*TABLES, *views.UNIONS) if name in self._made and name in changed | unions]
        stale += [
            name for name in views.TABLES_OF_VIEWS if name in self._made and (changed | unions) & {*views.needs(name)}
        ]
        self._made -= set(stale)
        for name in stale:
            self._make(name)

    def _make_for(self, query: str) -> None:
        for name in views.mentioned(query):
            self._make(name)

    def _make(self, name: str) -> None:
        """Make a view, and what it reads before it, unless it is there."""
        if name not in self._made:
            with self._making:
                self._make_now(name)

    def _make_now(self, name: str) -> None:
        if name in _FACTS:
            self._judge()
        if name in views.RELATIONS:
            for each in views.needs(name):
                self._make(each)
        elif name in TABLES:
            self._run(views.empty(name))
        elif not self._of_union(name):
            self._make("run_started")  # its empty table has the columns
        self._run(self._definition(name))
        if name in views.TABLES_OF_VIEWS and (constant := views.without_rows(name)):
            cursor = self._connection.cursor()
            if cursor.execute(f"SELECT count(*) = 0 FROM {name}").fetchone() == (True,):  # noqa: S608  a name of ours
                self._run(constant)
        self._made.add(name)

    def _run(self, statements: str) -> None:
        """Run SQL that makes something, also while another thread waits for a query's answer."""
        self._connection.cursor().execute(statements)

    def _definition(self, name: str) -> str:
        if name in views.RELATIONS:
            return views.definition(name)
        query = self._reading_shared(self._of_union(name)) if name in views.UNIONS else self._reading(name)
        if self._otherwise and name in _FACTS:
            columns = _SHARED if name in views.UNIONS else duckdb_columns(name)
            query = with_verdicts(f"({query})", verdicts.VERDICTS_HERE, columns, self._otherwise)
        return f'CREATE OR REPLACE VIEW log."{name}" AS {query}'

    @property
    def judged_here(self) -> bool:
        """Whether no verdict in the files counts: they have none yet, or facts that they took into account are gone."""
        return VERDICTS not in self.manifest.migrations or any(each.table in RUNS.bodies for each in self.damage)

    def _judge(self) -> None:
        """Decide what the files do not say: the verdicts of an archive without, and of forks that went far back."""
        if self._judged:
            return
        self._judged = True
        if self.judged_here:
            sources = [(table, f"({self._reading(table)})") for table in RUNS.bodies if self._entries[table]]
            for table, _ in sources:
                self._run(views.empty(table))
            self._undecided = verdicts.judge_all(self, self._connection.cursor(), sources)
            self._otherwise = str(int(Verdict.ACCEPTED))
        elif self.manifest.undecided:
            self._undecided = self.manifest.undecided
            verdicts.judge_forks(self, self._connection.cursor(), self.manifest.undecided)
            self._otherwise = "fact.log_verdict"
        if self._otherwise:
            self._make_anew({*RUNS.bodies})

    def _of_union(self, name: str) -> list[FileEntry]:
        return [entry for table in TABLES if table in views.UNIONS[name] for entry in self._entries[table]]

    def _reading(self, table: str) -> str:
        """SQL that reads one table: files of today's columns as they are, older shapes filled up with nulls."""
        by_shape: dict[str, list[FileEntry]] = {}
        for entry in self._entries[table]:
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
        """SQL that reads what all tables share from files of many: one scan, or two where some have no verdicts yet."""
        parts = []
        for there in (True, False):
            held = [entry for entry in entries if self._has_verdicts(entry) is there]
            columns = (name if there or name != "log_verdict" else "NULL::UTINYINT AS log_verdict" for name in _SHARED)
            if held:
                parts.append(f"SELECT {', '.join(columns)} FROM {self._scan(held)}")  # noqa: S608  names of ours
        return " UNION ALL ".join(parts) or f'SELECT {", ".join(_SHARED)} FROM empty."run_started"'  # noqa: S608  ours

    def _has_verdicts(self, entry: FileEntry) -> bool:
        """Whether a file has the column; one file tells of all of its shape."""
        if entry.shape == shape_of(entry.table):
            return True
        if (entry.table, entry.shape) not in self._shapes:
            found = self._connection.cursor().execute(f"DESCRIBE FROM {self._scan([entry])}").fetchall()
            self._shapes[entry.table, entry.shape] = "log_verdict" in {row[0] for row in found}
        return self._shapes[entry.table, entry.shape]

    def _scan(self, entries: list[FileEntry]) -> str:
        return f"read_parquet([{', '.join(quoted(pattern(self.archive / FILES / entry.name)) for entry in entries)}])"


def _confined(folder: Path, also: Path | None) -> list[str]:
    """SQL after which DuckDB opens files of these folders only."""
    folders = [folder] if also is None else [folder, also]
    allowed = {quoted(f"{form}/") for each in folders for form in (each, pattern(each))}
    return [f"SET allowed_directories = [{', '.join(sorted(allowed))}]", "SET enable_external_access = false"]


def _counted(events: dict[str, int]) -> str:
    return ", ".join(f"{count} events of type {name}" for name, count in events.items())


def _of_the_footer(archive: Path, entry: FileEntry) -> str | None:
    """What is wrong with what a Parquet file says of its footer's size, in its last eight bytes."""
    try:
        with (archive / FILES / entry.name).open("rb") as file:
            held = file.seek(0, os.SEEK_END)
            file.seek(max(0, held - _END_BYTES))
            end = file.read(_END_BYTES)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    size = int.from_bytes(end[:4], "little")
    if end[4:] == b"PAR1" and size > min(FOOTER_BYTES, max(0, held - _END_BYTES)):  # else it is none, as DuckDB says
        return f"says that its footer has {size} bytes, of {held} in all and {FOOTER_BYTES} that may be"
    return None


_END_BYTES: Final = 8
"""A Parquet file ends with its footer's size, four bytes with the lowest first, and `PAR1`."""
