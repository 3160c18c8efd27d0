"""The verdict on every fact, by `esper.record.accept`: as it is archived, and afterwards where an archive lacks it.

A run's verdicts come of its own facts alone, in the order of the log. So they are the same whatever else was archived
between them, and are made again from the archived facts when the archiver starts anew. On opening a history Python
decides what the files do not say: the verdicts of an archive that has none yet or lacks facts; and those of a fork that
went back behind its beginning, which take its parent's facts, with the seeds as it found them there.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.topics import RUNS
from esper.leyline import envelope
from esper.record import fold
from esper.record.accept import SPECIAL, Fact, Tally, Verdict
from esper.record.run_status import RunState
from projections.columns import duckdb_columns, quoted, shape_of
from projections.lineage import placed_facts
from projections.manifest import FILES, VERDICTS, FileEntry
from projections.verify import damaged

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

REMEMBERED_BYTES: Final = 32 * 2**20
"""What the tallies hold together that are kept between two flushes; a run that has none is counted again when a fact of
it comes. A tally holds 16 bytes a fact: two million facts, of some hundred runs that are live or of one."""

COUNTED_AT_ONCE: Final = 200
"""Runs whose archived facts are read together: every reading goes through all files."""

FACT_TABLES: Final = tuple(RUNS.bodies)
"""The tables whose rows have a verdict."""

VERDICT_COLUMNS: Final = "(run_id VARCHAR, log_partition INTEGER, log_offset BIGINT, verdict UTINYINT)"
"""The columns of a table of verdicts in DuckDB."""

_ACCEPTED: Final = int(Verdict.ACCEPTED)

_BATCH: Final = 10_000

Archived = Callable[[Collection[str]], Iterable[Fact] | None]

_log = logging.getLogger(__name__)


class Verdicts:
    """Judges facts as they arrive, each run by its own tally.

    `started` are the runs of which facts are archived already, None where that is not known; `archived` gives the
    archived facts of runs, each run's in order, or None where some are damaged: then nothing can be decided here.
    `undecided` are the runs with facts that only a reader can judge, `unstarted` those whose start never came.
    """

    def __init__(self, started: Collection[str] | None = (), archived: Archived = lambda _run_ids: ()) -> None:
        self._started = None if started is None else set(started)
        self._archived = archived
        self._tallies: OrderedDict[str, Tally] = OrderedDict()
        self.undecided: set[str] = set()
        self.unstarted: set[str] = set()

    def take(self, fact: Fact) -> Verdict:
        """The verdict on the next fact in the log's order."""
        tally = self._tallies.get(fact.run_id)
        if tally is None:
            begins = fact.name == "run_started" and self._started is not None and fact.run_id not in self._started
            self._tallies[fact.run_id] = Tally(fact.run_id)
            if not begins:
                self._count([fact.run_id])
            tally = self._tallies[fact.run_id]
            if self._started is not None:
                self._started.add(fact.run_id)
        verdict = tally.take(fact)
        if verdict is Verdict.UNDECIDED:
            self.undecided.add(fact.run_id)
        elif verdict is Verdict.NOT_STARTED:
            self.unstarted.add(fact.run_id)
        return verdict

    def take_all(self, facts: Iterable[tuple[str, str, bytes, int, int, Any]]) -> list[int]:
        """The verdicts on many facts; those that are plainly the next of their run cost no object."""
        verdicts, tallies = [], self._tallies
        for run_id, name, event_id, incarnation, sequence, body in facts:
            tally = tallies.get(run_id)
            if body is None and tally is not None and tally.take_plain(event_id, incarnation, sequence):
                verdicts.append(_ACCEPTED)
            else:
                verdicts.append(int(self.take(Fact(run_id, name, event_id, incarnation, sequence, body))))
        return verdicts

    def expect(self, run_ids: Iterable[str]) -> None:
        """Facts of these runs come next: those that are archived and not remembered are counted now, many at a time."""
        unknown = []
        for run_id in dict.fromkeys(run_ids):
            if run_id in self._tallies:
                self._tallies.move_to_end(run_id)
            elif self._started is None or run_id in self._started:
                unknown.append(run_id)
        for start in range(0, len(unknown), COUNTED_AT_ONCE):
            some = unknown[start : start + COUNTED_AT_ONCE]
            self._tallies |= {run_id: Tally(run_id) for run_id in some}
            self._count(some)

    def trim(self) -> None:
        """Forget the runs that were seen longest ago; only when all that was taken is archived."""
        held = sum(tally.size for tally in self._tallies.values())
        while held > REMEMBERED_BYTES and len(self._tallies) > 1:
            _, tally = self._tallies.popitem(last=False)
            held -= tally.size

    def _count(self, run_ids: Collection[str]) -> None:
        """Fill the empty tallies of these runs from their archived facts."""
        facts = self._archived(run_ids)
        if facts is None:
            for run_id in run_ids:
                self._tallies[run_id].undecided = True
            return
        for each in facts:
            self._tallies[each.run_id].take(each)


def archived_facts(folder: Path, entries: Sequence[FileEntry], run_ids: Collection[str]) -> Iterator[Fact] | None:
    """The facts of runs in the files of an archive, in the order of the log; None where a file cannot be read."""
    import pyarrow as pa  # noqa: PLC0415  readers need no Arrow, and importing it costs 0.1 s
    import pyarrow.parquet as pq  # noqa: PLC0415  as above

    for damage in damaged(folder, entries):
        _log.warning("%s: facts of %d runs stay undecided", damage, len(run_ids))
        return None
    columns = ["log_partition", "log_offset", "run_id", "event_id", "incarnation", "sequence"]
    wanted = [("run_id", "in", list(run_ids))]
    found = []
    for entry in entries:
        special = ["log_raw"] if entry.table in SPECIAL else []
        try:
            path = folder / FILES / entry.name
            rows = pq.read_table(path, columns=[*columns, *special], filters=wanted)
        except (OSError, pa.ArrowException) as error:
            _log.warning("%s is damaged (%s): facts of %d runs stay undecided", path, error, len(run_ids))
            return None
        raw = rows["log_raw"].cast(pa.large_binary()) if special else pa.nulls(len(rows), pa.large_binary())
        name = pa.repeat(entry.table, len(rows))
        found.append(rows.select(columns).append_column("name", name).append_column("raw", raw))
    return _in_order(found)


def _in_order(found: Sequence[Any]) -> Iterator[Fact]:
    """The rows of Arrow tables as facts, in the order of the log; few are objects at a time."""
    import pyarrow as pa  # noqa: PLC0415  as above

    if not found:
        return
    rows = pa.concat_tables(found, promote_options="permissive")
    rows = rows.sort_by([("log_partition", "ascending"), ("log_offset", "ascending")])
    for batch in rows.to_batches(max_chunksize=_BATCH):
        for row in batch.to_pylist():
            name, raw = row["name"], row["raw"]
            body = None if raw is None else body_of(name, raw)
            yield Fact(row["run_id"], name, row["event_id"], row["incarnation"], row["sequence"], body)


def body_of(name: str, raw: bytes) -> Any:
    """The body of an event, of today's schema."""
    return getattr(envelope.parse(raw), name)


Placed = tuple[str, int, int, Verdict]
"""A run, a partition, an offset, and the verdict on the fact there."""


def judged(rows: Iterable[tuple[Any, ...]]) -> Iterator[Placed]:
    """The verdicts on facts that come ordered by run and then as on the log.

    Rows have run id, partition, offset, body's name, event id, incarnation, sequence, and the bytes of `SPECIAL` facts.
    """
    tally = Tally("")
    for run_id, partition, offset, name, event_id, incarnation, sequence, raw in rows:
        if tally.run_id != run_id:
            tally = Tally(run_id)
        body = None if raw is None else body_of(name, raw)
        verdict = tally.take(Fact(run_id, name, bytes(event_id), incarnation, sequence, body))
        yield run_id, partition, offset, verdict


def fact_rows(connection: Connection, sources: Iterable[tuple[str, str]]) -> Iterator[tuple[Any, ...]]:
    """The facts in `sources` (body's name and SQL of the rows), as `verdicts.judged` takes them."""
    columns = "run_id, log_partition, log_offset, log_body, event_id, incarnation, sequence"
    parts = [
        f"SELECT {columns}, {'log_raw' if table in SPECIAL else 'NULL::BLOB'} AS log_raw FROM {source}"  # noqa: S608  ours
        for table, source in sources
    ]
    if not parts:
        return
    cursor = connection.cursor()
    cursor.execute(f"{' UNION ALL '.join(parts)} ORDER BY run_id, log_partition, log_offset")
    while rows := cursor.fetchmany(_BATCH):
        yield from rows


def keep_verdicts(connection: Connection, table: str, verdicts: Iterable[Placed]) -> Iterator[Placed]:
    """Make the table of all `verdicts` but `ACCEPTED`, which most are; gives those that are kept."""
    connection.execute(f"CREATE OR REPLACE TABLE {table} {VERDICT_COLUMNS}")
    batch: list[Placed] = []
    for placed in verdicts:
        if placed[3] is not Verdict.ACCEPTED:
            batch.append(placed)
            yield placed
        if len(batch) == _BATCH:
            insert_verdicts(connection, table, batch)
            batch = []
    insert_verdicts(connection, table, batch)


def insert_verdicts(connection: Connection, table: str, batch: list[Placed]) -> None:
    """Put verdicts into their table."""
    if batch:
        connection.execute(
            f"INSERT INTO {table} SELECT unnest($1::VARCHAR[]), unnest($2::INTEGER[]), unnest($3::BIGINT[]), "
            "unnest($4::UTINYINT[])",
            [list(column) for column in zip(*((*each[:3], int(each[3])) for each in batch), strict=True)],
        )


def with_verdicts(rows: str, verdicts: str, columns: Iterable[str], otherwise: str) -> str:
    """SQL of `rows` with `columns`, `log_verdict` among them, out of the table `verdicts`."""
    named = ", ".join(
        f"coalesce(judged.verdict, {otherwise})::UTINYINT AS log_verdict" if name == "log_verdict" else f'fact."{name}"'
        for name in columns
    )
    return (
        f"SELECT {named} FROM {rows} AS fact LEFT JOIN {verdicts} AS judged "  # noqa: S608  names of ours
        "ON judged.log_partition = fact.log_partition AND judged.log_offset = fact.log_offset"
    )


def columns_with_verdict(connection: Connection, table: str, shape: str, source: str) -> tuple[list[str], str]:
    """The columns of files of a shape with the verdict among them, and their new shape: today's where they are today's.

    `source` is SQL that reads such a file.
    """
    types: Mapping[str, str] = {row[0]: row[1] for row in connection.execute(f"DESCRIBE FROM {source}").fetchall()}
    today = list(duckdb_columns(table))
    held = [name for name in types if name not in {"log_regular", "log_verdict"}]
    if set(held) == set(today) - {"log_verdict"}:
        return today, shape_of(table)
    place = held.index("log_body") + 1
    migrated = hashlib.sha256(f"{shape} {VERDICTS}".encode()).hexdigest()[:12]
    return [*held[:place], "log_verdict", *held[place:]], migrated


if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

    from esper.leyline.envelope import Event
    from projections.history import History

VERDICTS_HERE: Final = "decided.verdicts"

SEEDS_HERE: Final = "decided.seeds"

_SEED: Final = (
    *("seed_id", "site", "stage", "blueprint_id", "alpha", "life", "parameters", "form", "stage_age_epochs"),
    *("since_sequence", "since_step", "since_epoch"),
)


def judge_all(history: History, connection: Connection, sources: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Every fact in `sources` (body's name and SQL of its rows): what is not in the table is accepted.

    Returns the forks that took their parent's facts.
    """
    undecided = {
        run_id
        for run_id, *_, verdict in keep_verdicts(connection, VERDICTS_HERE, judged(fact_rows(connection, sources)))
        if verdict is Verdict.UNDECIDED
    }
    judge_forks(history, connection, sorted(undecided))
    return tuple(sorted(undecided))


def judge_forks(history: History, connection: Connection, runs: Sequence[str]) -> None:
    """Every fact of forks that went back behind their beginning."""
    for run_id in runs:
        verdicts, seeds = _fork(history, run_id)
        connection.execute(f"DELETE FROM {VERDICTS_HERE} WHERE run_id = ?", [run_id])  # noqa: S608  a name of ours
        connection.execute(f"DELETE FROM {SEEDS_HERE} WHERE run_id = ?", [run_id])  # noqa: S608  as above
        insert_verdicts(connection, VERDICTS_HERE, verdicts)
        if seeds:
            names = ", ".join("?" * len(seeds[0]))
            connection.executemany(f"INSERT INTO {SEEDS_HERE} VALUES ({names})", seeds)  # noqa: S608  as above


def _fork(history: History, run_id: str) -> tuple[list[Placed], list[list[Any]]]:
    """The verdict on each of a fork's own facts, and the seeds after each by which it went behind its beginning."""
    state, seen = RunState(), set[bytes]()
    verdicts: list[Placed] = []
    seeds: list[list[Any]] = []
    shared = 0
    for partition, offset, event in placed_facts(history, run_id):
        state, verdict = fold.step(state, event)
        if event.run_id != run_id or verdict is None:
            continue
        shared = event.run_started.parent_sequence if event.HasField("run_started") and not verdicts else shared
        if event.event_id in seen and not verdict.stops:
            verdict = Verdict.REPEATED
        seen.add(event.event_id)
        verdicts.append((run_id, partition, offset, verdict))
        if verdict is Verdict.ACCEPTED and 0 < _target(event) <= shared:
            seeds += ([run_id, offset, event.sequence, *_figures(seed)] for seed in state.seeds.values())
    return verdicts, seeds


def _target(event: Event) -> int:
    """The sequence that a rollback or a resume goes back to; 0 for any other fact."""
    return event.rolled_back.to_sequence or event.run_resumed.accepted_sequence


def _figures(seed: Any) -> list[Any]:
    known = asdict(seed)
    return [known[name] for name in _SEED]


def inserts(connection: Connection) -> Iterator[str]:
    """SQL that fills the tables with what is in them."""
    for table in (VERDICTS_HERE, SEEDS_HERE):
        for row in connection.execute(f"FROM {table}").fetchall():
            values = ", ".join(quoted(value) if isinstance(value, str) else str(value) for value in row)
            yield f"INSERT INTO {table} VALUES ({values})"  # noqa: S608  as above
