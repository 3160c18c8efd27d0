"""Urza's catalogue: the log's events about blueprints folded into a DuckDB file, rows and offsets in one transaction.

So every event counts exactly once, whatever the log delivers twice and wherever the process dies. The file holds
nothing that the log does not: delete it and the same library comes back (ruling 24, R-URZA-7).
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import duckdb

from contracts.topics import BLUEPRINTS, RUNS, Topic
from esper.errors import ContractViolation
from esper.leyline import envelope
from esper.leyline.envelope import Event
from esper.leyline.signing import HEADER_KEY_ID, HEADER_SIGNATURE, KeyRing, Signed
from esper.urza.version import Query, Version
from projections.library_query import find
from projections.library_rows import ROWS, Row
from projections.records import Record

SOURCES: Final[tuple[Topic, ...]] = (BLUEPRINTS, RUNS)
"""Both are kept for ever, so the library can always be made again."""
TABLES: Final = ("registered", "approvals", "requested", "finished", "stored", "sheets", "attached")

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Taken:
    """What became of a batch: events folded in, those known already, and records refused, by reason."""

    folded: int = 0
    repeated: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class Library:
    """The catalogue in `path`, or in memory where that is None. One thread writes; `reader` is for another.

    A file that cannot be read is made anew. Where another process has it open, this one folds the log into memory: the
    outcome is the same, because both are folds of one log.
    """

    def __init__(self, path: Path | None, ring: KeyRing) -> None:
        self.path = path
        self._ring = ring
        self._connection = _open(path)
        self._define()
        self.next_offsets = self._read_offsets()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()
        del self._connection  # as in the reader

    def reader(self) -> LibraryReader:
        """A view of what is committed, for a thread of its own."""
        return LibraryReader(self._connection.cursor())

    def clear(self) -> None:
        """Forget everything, offsets too: for a log that is not the one that this was folded from."""
        self._write([f"DELETE FROM {table}" for table in (*TABLES, "library", "offsets")])  # noqa: S608  ours
        self.next_offsets = {}

    def take(self, records: Sequence[Record]) -> Taken:
        """Fold records in, in one transaction with the offsets after them; those before an offset are left out.

        After an error nothing of the batch counts. Records of one partition come in the order of their offsets.
        """
        taken, offsets = Taken(), dict(self.next_offsets)
        rows: dict[str, dict[bytes, Row]] = {table: {} for table in TABLES}
        for record in records:
            place = (record.topic, record.partition)
            if record.offset < offsets.get(place, 0):
                taken.repeated += 1
                continue
            offsets[place] = record.offset + 1
            event = self._event(record)
            if isinstance(event, str):
                taken.refused[event] += 1
                continue
            make = ROWS.get(envelope.body_name(event))
            if make is not None:
                table, row = make(event, record)
                taken.folded += event.event_id not in rows[table]
                taken.repeated += event.event_id in rows[table]
                rows[table].setdefault(event.event_id, row)
        if offsets != self.next_offsets:
            self._commit(rows, offsets)
            self.next_offsets = offsets
        return taken

    def _commit(self, rows: dict[str, dict[bytes, Row]], offsets: dict[tuple[str, int], int]) -> None:
        self._connection.execute("BEGIN")
        try:
            touched: set[str] = set()
            for table, made in rows.items():
                if made:
                    self._insert(table, list(made.values()))
                    touched |= {str(row["blueprint_id"]) for row in made.values()}
            if touched:
                names = [sorted(touched)]
                self._connection.execute("DELETE FROM library WHERE list_contains(?, blueprint_id)", names)
                self._connection.execute(
                    "INSERT INTO library SELECT * FROM versions WHERE list_contains(?, blueprint_id)", names
                )
            for (topic, partition), offset in offsets.items():
                if self.next_offsets.get((topic, partition)) != offset:
                    self._connection.execute(
                        "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)", [topic, partition, offset]
                    )
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    def _insert(self, table: str, rows: list[Row]) -> None:
        described = self._connection.execute(f"DESCRIBE {table}").fetchall()
        fields = ", ".join(f"{column[0]} {column[1]}" for column in described)
        names = ", ".join(str(column[0]) for column in described)
        # The names are ours. An event that came before stays as it is: repeated, it must not move to a later place.
        self._connection.execute(
            f"INSERT INTO {table} ({names}) SELECT unnest(?::STRUCT({fields})[], max_depth := 2) "
            "ON CONFLICT DO NOTHING",
            [rows],
        )

    def _event(self, record: Record) -> Event | str:
        """The event in a record, or why it is refused."""
        headers = dict(record.headers)
        key_id = headers.get(HEADER_KEY_ID)
        name = key_id.decode("utf-8", "replace") if key_id else None
        try:
            event = envelope.parse(record.value or b"")
        except ContractViolation:
            return "malformed"
        if envelope.topic_of(event).name != record.topic:
            return "misplaced"
        signed = Signed(record.value or b"", name, headers.get(HEADER_SIGNATURE))
        return self._ring.verify(signed, event.recorded_at_ns) or event

    def _define(self) -> None:
        """Make what is missing. What an Esper with other tables made is dropped: the log has it."""
        tables, versions = _sql("tables"), _sql("versions")
        made_by = hashlib.sha256(f"{tables}{versions}".encode()).hexdigest()
        self._connection.execute("CREATE TABLE IF NOT EXISTS made_by (digest VARCHAR)")
        before = self._connection.execute("SELECT digest FROM made_by").fetchone()
        if before != (made_by,):
            self._write(
                [
                    "DROP VIEW IF EXISTS versions",
                    *(f"DROP TABLE IF EXISTS {table}" for table in (*TABLES, "library", "offsets")),
                    "DELETE FROM made_by",
                    tables,
                    f"CREATE VIEW versions AS {versions}",
                    "CREATE TABLE library AS SELECT * FROM versions LIMIT 0",
                    f"INSERT INTO made_by VALUES ('{made_by}')",  # noqa: S608  hex digits
                ]
            )

    def _read_offsets(self) -> dict[tuple[str, int], int]:
        rows = self._connection.execute("SELECT topic, partition, next_offset FROM offsets").fetchall()
        return {(topic, partition): offset for topic, partition, offset in rows}

    def _write(self, statements: list[str]) -> None:
        self._connection.execute("BEGIN")
        try:
            for statement in statements:
                self._connection.execute(statement)
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise


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


def _open(path: Path | None) -> duckdb.DuckDBPyConnection:
    settings: dict[str, str | bool | int | float | list[str]] = {"threads": 1, "memory_limit": "256MB"}
    if path is None:
        return duckdb.connect(":memory:", config=settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return duckdb.connect(path, config=settings)
    except duckdb.Error as error:
        if "lock" in str(error):
            _log.warning("another process has %s open: this one keeps its own library in memory", path)
            return duckdb.connect(":memory:", config=settings)
        _log.warning("%s cannot be read and is made anew from the log: %s", path, error)
    for file in (path, path.with_name(f"{path.name}.wal")):
        file.unlink(missing_ok=True)
    return duckdb.connect(path, config=settings)


def _sql(name: str) -> str:
    return resources.files("projections").joinpath("sql", "library", f"{name}.sql").read_text("utf-8")
