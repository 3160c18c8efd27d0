"""The one engine of all projections: events folded into a DuckDB file, rows and offsets in one transaction.

So every event counts exactly once, whatever the log delivers twice and wherever the process dies. A file holds nothing
that the log does not: delete it and the same tables come back (ruling 24).
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import duckdb

from contracts.topics import BY_BODY, RUNS
from esper.errors import ContractViolation, EsperError
from esper.leyline import envelope
from esper.leyline.envelope import Event
from esper.leyline.signing import HEADER_KEY_ID, HEADER_SIGNATURE, KeyRing, Signed, history_ns
from esper.record.accept import SPECIAL, Fact
from projections import seals
from projections.manifest import Place
from projections.projection import Projection, Row, migrate, refresh
from projections.records import Record
from projections.verdicts import Verdicts, body_of

_SETTINGS: Final[dict[str, str | bool | int | float | list[str]]] = {
    "threads": 1,
    "memory_limit": "256MB",
    "enable_external_access": False,  # a file from somebody else may hold views that read other files
}
_UNFIT: Final = (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.TypeMismatchException)
"""What DuckDB raises for a value that a column cannot hold."""
_SEAL: Final = "seal"
"""The name of a sequence that counts nothing: its comment is the word of the seal. No table has to be told of so."""
_log = logging.getLogger(__name__)


class Locked(EsperError):
    """Another process has the file open."""


@dataclass(slots=True)
class Taken:
    """What became of a batch: events folded in, those known already, and records refused, by reason."""

    folded: int = 0
    repeated: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class Store:
    """The projection in the file `path`, or in memory where that is None. One thread writes; `cursor` is for another.

    With `ring` every record's signature is verified; without one that was done before, by the archive. A file that
    cannot be read is made anew, and with `ring` one that was not made here with a key of it, since what is served from
    it is signed with that key. Raises Locked where another process has it open, InvalidInput for a newer Esper's.
    """

    def __init__(self, projection: Projection, path: Path | None, ring: KeyRing | None) -> None:
        self.projection = projection
        self.path = path
        self._ring = ring
        self._tags = [envelope.tag_of(name) for name in projection.bodies]
        self._others = _mostly_others(projection)
        try:
            self._begin()
        except duckdb.Error as error:
            if not self._is_damage(error):
                raise
            self._begin()  # anew

    def _begin(self) -> None:
        self._connection = _open(self.path, self._ring)
        try:
            self.migrated = migrate(self._execute, self.projection)
            self.next_offsets = self._read_offsets()
            self._columns = {table: self._described(table) for table in self._tables()}
            self._verdicts = Verdicts(None, self._facts_of)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        ours = (
            self.path is not None
            and self._ring is not None
            and seals.holds_open(self.path, self._ring, _word(self._connection))
        )
        self._connection.close()
        del (
            self._connection
        )  # without this DuckDB complains at the interpreter's end where someone still holds the store
        if ours and self.path is not None and self._ring is not None:
            seals.write_closed(self.path, self._ring)

    @property
    def verifies(self) -> bool:
        """Whether records are to come with the headers that sign them."""
        return self._ring is not None

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A view of what is committed, for a thread of its own."""
        return self._connection.cursor()

    def distrust(self, why: str) -> None:
        """Have the file made anew the next time that it is opened with keys."""
        if self.path is not None and self._ring is not None:
            _log.warning("%s lacks something and will be made anew when it is opened again: %s", self.path, why)
            seals.break_seal(self.path)

    def _is_damage(self, error: BaseException) -> bool:
        """Whether an error says that the file is damaged; then it is made anew the next time."""
        damaged = isinstance(error, (duckdb.InternalException, duckdb.FatalException)) or (
            isinstance(error, duckdb.Error) and "orrupt" in str(error)
        )
        if damaged:
            self.distrust(str(error).splitlines()[0])
        return damaged

    def clear(self) -> None:
        """Forget everything, offsets too: for a log that is not the one that this was folded from."""
        self._execute("BEGIN")
        try:
            for table in (*self._tables(), *(kept.table for kept in self.projection.kept), "offsets"):
                self._execute(f"DELETE FROM {table}")  # noqa: S608  names of ours
            self._execute("COMMIT")
        except BaseException:
            self._execute("ROLLBACK")
            raise
        self.next_offsets = {}

    def take(self, records: Sequence[Record], upto: Mapping[Place, int] | None = None) -> Taken:
        """Fold records in, in one transaction with the offsets after them; those before an offset are left out.

        Records of one partition come in the order of their offsets. `upto` says that there is nothing else of interest
        before these offsets. After an error nothing of the batch counts.
        """
        taken, offsets = Taken(), dict(self.next_offsets)
        rows: dict[str, dict[bytes, Row]] = {}
        for record in records:
            place = (record.topic, record.partition)
            if record.offset < offsets.get(place, 0):
                taken.repeated += 1
                continue
            offsets[place] = record.offset + 1
            if record.topic in self._others and not any(tag in (record.value or b"") for tag in self._tags):
                continue  # of no body that makes a row, whatever else it is
            event = self._event(record)
            if isinstance(event, str):
                taken.refused[event] += 1
                continue
            verdict = self._judged(event, record, rows)
            make = self.projection.rows.get(envelope.body_name(event))
            if make is not None:
                table, row = make(event, record)
                known = rows.setdefault(table, {})
                taken.folded += event.event_id not in known
                taken.repeated += event.event_id in known
                known.setdefault(event.event_id, {**row, "verdict": verdict})
        for place, offset in (upto or {}).items():
            offsets[place] = max(offset, offsets.get(place, 0))
        if offsets != self.next_offsets:
            try:
                self._commit(rows, offsets)
            except BaseException as error:
                self._verdicts = Verdicts(None, self._facts_of)  # what was judged is not kept
                if isinstance(error, _UNFIT):
                    return self._take_what_fits(records, upto, error)
                self._is_damage(error)
                raise
            self.next_offsets = offsets
        self._verdicts.trim()
        return taken

    def _take_what_fits(self, records: Sequence[Record], upto: Mapping[Place, int] | None, error: Exception) -> Taken:
        """The same for records of which one has a value that no column can hold: that one is refused."""
        if len(records) > 1:
            middle = len(records) // 2
            first, rest = self.take(records[:middle]), self.take(records[middle:], upto)
            refused = first.refused + rest.refused
            return Taken(first.folded + rest.folded, first.repeated + rest.repeated, refused)
        (record,) = records
        place = (record.topic, record.partition)
        offsets = {**self.next_offsets, place: record.offset + 1}
        offsets |= {at: max(offset, offsets.get(at, 0)) for at, offset in (upto or {}).items()}
        self._commit({}, offsets)
        self.next_offsets = offsets
        at = f"{record.topic}/{record.partition} offset {record.offset}"
        _log.warning("projection %s leaves out %s: %s", self.projection.name, at, str(error).splitlines()[0])
        return Taken(refused=Counter({"unfit": 1}))

    def _judged(self, event: Event, record: Record, rows: dict[str, dict[bytes, Row]]) -> int | None:
        """The verdict on a fact, where this projection judges them; what the rule looks at is a row of `facts`."""
        name = envelope.body_name(event)
        if not self.projection.judges or name not in RUNS.bodies:
            return None
        fact = Fact(event.run_id, name, event.event_id, event.incarnation, event.sequence, envelope.body_of(event))
        raw = record.value if name in SPECIAL else None
        columns = {"run_id": event.run_id, "name": name, "incarnation": event.incarnation, "sequence": event.sequence}
        row = {"event_id": event.event_id, "place": record.offset, "raw": raw, **columns}
        rows.setdefault("facts", {}).setdefault(event.event_id, row)
        return int(self._verdicts.take(fact))

    def _facts_of(self, run_ids: Collection[str]) -> list[Fact]:
        """The facts of runs so far, each run's in the order of the log."""
        query = """
            SELECT run_id, name, event_id, incarnation, sequence, raw FROM facts
            WHERE run_id IN (SELECT unnest(?)) ORDER BY run_id, place
        """
        return [
            Fact(run_id, name, event_id, incarnation, sequence, None if raw is None else body_of(name, raw))
            for run_id, name, event_id, incarnation, sequence, raw in self._execute(query, [list(run_ids)]).fetchall()
        ]

    def _commit(self, rows: Mapping[str, dict[bytes, Row]], offsets: Mapping[Place, int]) -> None:
        self._execute("BEGIN")
        try:
            for table, made in rows.items():
                self._insert(table, list(made.values()))
            for kept in self.projection.kept:
                touched = {row[kept.key] for made in rows.values() for row in made.values()}
                if touched:
                    refresh(self._execute, kept, sorted(touched))
            for (topic, partition), offset in offsets.items():
                if self.next_offsets.get((topic, partition)) != offset:
                    self._execute("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)", [topic, partition, offset])
            self._execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.TransactionException):  # a commit that failed has ended it already
                self._execute("ROLLBACK")
            raise

    def _insert(self, table: str, rows: list[Row]) -> None:
        columns = self._columns[table]
        held = [{name: row[name] for name in columns} for row in rows]
        struct = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        names = ", ".join(f'"{name}"' for name in columns)
        # The names are ours. An event that came before stays as it is: repeated, it must not move to a later place.
        self._execute(
            f"INSERT INTO {table} ({names}) SELECT unnest(?::STRUCT({struct})[], max_depth := 2) "
            "ON CONFLICT DO NOTHING",
            [held],
        )

    def _execute(self, *arguments: Any) -> duckdb.DuckDBPyConnection:
        return self._connection.execute(*arguments)

    def _event(self, record: Record) -> Event | str:
        """The event in a record, or why it is refused."""
        value = record.value or b""
        try:
            event = envelope.parse(value)
        except ContractViolation:
            return "malformed"
        if envelope.topic_of(event).name != record.topic:
            return "misplaced"
        if self._ring is None:
            return event
        headers = dict(record.headers)
        key_id = headers.get(HEADER_KEY_ID)
        name = key_id.decode("utf-8", "replace") if key_id else None
        at_ns = history_ns(event.recorded_at_ns, record.timestamp)
        return self._ring.verify(Signed(value, name, headers.get(HEADER_SIGNATURE)), at_ns) or event

    def _tables(self) -> list[str]:
        """The tables of events: those with the id of one as their key."""
        query = (
            "SELECT table_name FROM information_schema.columns WHERE column_name = 'event_id' AND is_nullable = 'NO'"
        )
        return [name for (name,) in self._execute(f"{query} ORDER BY ALL").fetchall()]

    def _described(self, table: str) -> dict[str, str]:
        return {column[0]: column[1] for column in self._execute(f"DESCRIBE {table}").fetchall()}

    def _read_offsets(self) -> dict[Place, int]:
        rows = self._execute("SELECT topic, partition, next_offset FROM offsets").fetchall()
        return {(topic, partition): offset for topic, partition, offset in rows}


def _mostly_others(projection: Projection) -> set[str]:
    """The topics of which most kinds of events make no row: the library takes one in fifty of the runs' facts."""
    wanted = Counter(BY_BODY[name].name for name in projection.bodies)
    return {topic.name for topic in projection.sources if 2 * wanted[topic.name] < len(topic.bodies)}


def connected(path: Path, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """A connection to a projection's file; raises Locked where another process has it open."""
    try:
        return duckdb.connect(path, read_only=read_only, config=_SETTINGS)
    except duckdb.Error as error:
        if "set lock on file" in str(error):  # a damaged file has a "block" in its message
            raise Locked(f"{path} is kept by a running process; stop it, or ask the archive instead") from None
        raise


def _open(path: Path | None, ring: KeyRing | None) -> duckdb.DuckDBPyConnection:
    if path is None:
        return duckdb.connect(":memory:", config=_SETTINGS)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        known = ring is None or not path.exists() or seals.holds_closed(path, ring)
        connection = connected(path)  # also where it is of no use: nobody may have it open
        # Again, where another process was just closing it.
        if known or (ring is not None and (seals.holds_closed(path, ring) or _was_killed(connection, path, ring))):
            return _sealed(connection, path, ring)
        connection.close()
        _log.warning("%s was not made here with a key of ours and is made anew from the log and the archive", path)
    except duckdb.Error as error:
        _log.warning("%s cannot be read and is made anew from the log: %s", path, error)
    for file in (path, path.with_name(f"{path.name}.wal")):
        file.unlink(missing_ok=True)
    return _sealed(connected(path), path, ring)


def _was_killed(connection: duckdb.DuckDBPyConnection, path: Path, ring: KeyRing) -> bool:
    """Whether it is the file that was open here when its process was killed."""
    return seals.holds_open(path, ring, _word(connection))


def _sealed(connection: duckdb.DuckDBPyConnection, path: Path, ring: KeyRing | None) -> duckdb.DuckDBPyConnection:
    """The connection, and beside the file that it was made with a key of `ring`; the file has the seal's word in it."""
    if ring is not None:
        word = secrets.token_hex(16)
        connection.execute(f"CREATE OR REPLACE SEQUENCE {_SEAL}; COMMENT ON SEQUENCE {_SEAL} IS '{word}'")
        connection.execute("CHECKPOINT")  # into the file itself, and not what lies beside it
        seals.write_open(path, ring, word)
    return connection


def _word(connection: duckdb.DuckDBPyConnection) -> str:
    """The word that was drawn when the file was opened last; empty where there is none."""
    query = "SELECT any_value(comment) FROM duckdb_sequences() WHERE sequence_name = ?"
    (found,) = connection.execute(query, [_SEAL]).fetchone() or (None,)
    return found or ""
