"""What a projection is: the topics it follows, the rows that an event makes, and its tables, as SQL with a history.

Every event makes at most one row, kept under the event's id: a repetition changes nothing. No row depends on another,
so the order in which topics arrive does not matter; views put the rows together. That is why every projection is the
same whatever was delivered twice, in whatever order, and however often its process was killed.

Its file is brought up to date by migrations, by name and recorded in the file. One that has all of ours and no more is
used. One that lacks some is migrated, or, where a migration needs events that were folded before it, emptied and folded
again. One that another Esper's migrations have shaped differently is emptied too, because the log has everything; but
one that is ahead of this Esper is refused: its own Esper may still be using it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, TypeAlias

from contracts.topics import RUNS, Topic
from esper.errors import InvalidInput
from esper.leyline.envelope import Event
from projections.records import Record

Row: TypeAlias = dict[str, Any]


Make: TypeAlias = Callable[[Event, Record], tuple[str, Row]]


REBUILD: Final = "-- rebuild:"


"""A migration that begins so needs events that were folded before it: the projection is folded again from its first."""


@dataclass(frozen=True, slots=True)
class Script:
    """A migration or a view: its name and its SQL."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        """Of the text: what was applied is compared with what is here by it."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Kept:
    """A view that is kept as a table, made anew for those values of `key` that a batch touches."""

    table: str
    view: str
    key: str


@dataclass(frozen=True, slots=True)
class Projection:
    """A projection by its name.

    `rows` has one function per body of `sources` that it takes. The SQL is in `sql/<folder>/`: `0001_<what>.sql` and on
    are the migrations, `views` the views, in an order in which each finds those that it reads.

    `owner` is the process that keeps the file, which no other may open meanwhile (DuckDB locks it). A projection that
    `judges` has the verdict on every fact in its rows, and keeps in the table `facts` what the next verdicts take.
    """

    name: str
    what: str
    owner: str
    sources: tuple[Topic, ...]
    folder: str
    rows: Mapping[str, Make]
    views: tuple[str, ...]
    kept: tuple[Kept, ...] = ()
    judges: bool = False

    @property
    def bodies(self) -> tuple[str, ...]:
        """The bodies that it has to see."""
        return tuple({**self.rows, **dict.fromkeys(RUNS.bodies if self.judges else ())})

    def migrations(self) -> list[Script]:
        """The migrations in their order."""
        folder = resources.files("projections").joinpath("sql", self.folder)
        names = sorted(entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name[:4].isdecimal())
        return [self._script(name) for name in names]

    def view_scripts(self) -> list[Script]:
        """The views in their order."""
        return [self._script(name) for name in self.views]

    def _script(self, name: str) -> Script:
        file = resources.files("projections").joinpath("sql", self.folder, f"{name}.sql")
        return Script(name, file.read_text("utf-8").rstrip().removesuffix(";"))


def row(event: Event, record: Record, **columns: Any) -> Row:
    """A row: the event's id, its place in the partition, and `columns`."""
    return {"event_id": event.event_id, "place": record.offset, **columns}


def fact_row(event: Event, record: Record, **columns: Any) -> Row:
    """The row of something that happened to a run: what orders the run's facts, and where it was."""
    return row(
        event,
        record,
        run_id=event.run_id,
        sequence=event.sequence,
        incarnation=event.incarnation,
        timeline=event.timeline,
        step=event.global_step,
        epoch=event.epoch,
        recorded_at_ns=event.recorded_at_ns,
        **columns,
    )


def fields(body: Any, names: Iterable[str]) -> dict[str, Any]:
    """Fields of a message as a row holds them; repeated ones as lists."""
    return {
        name: list(value) if body.DESCRIPTOR.fields_by_name[name].is_repeated else value
        for name in names
        for value in [getattr(body, name)]
    }


Execute = Callable[..., Any]


_ENGINE: Final = """
CREATE TABLE migrations (number INTEGER PRIMARY KEY, name VARCHAR NOT NULL, digest VARCHAR NOT NULL);
CREATE TABLE views (name VARCHAR PRIMARY KEY, digest VARCHAR NOT NULL);
CREATE TABLE offsets (
    topic VARCHAR NOT NULL, partition INTEGER NOT NULL, next_offset BIGINT NOT NULL, PRIMARY KEY (topic, partition)
)
"""


def migrate(execute: Execute, projection: Projection) -> list[str]:
    """Bring the file behind `execute` up to date, in one transaction; the names of what was applied.

    Raises InvalidInput for a file of a newer Esper.
    """
    ours = projection.migrations()
    execute("BEGIN")
    try:
        applied = _applied(execute)
        _refuse_newer(projection, applied or [], ours)
        due = _due(applied, ours)
        if due is None:
            _empty(execute)
            due = ours
        if due == ours:
            execute(_ENGINE)
        for script in due:
            execute(script.text)
            execute("INSERT INTO migrations VALUES (?, ?, ?)", [ours.index(script) + 1, script.name, script.digest])
        _renew_views(execute, projection)
        execute("COMMIT")
    except BaseException:
        execute("ROLLBACK")
        raise
    return [script.name for script in due]


def _refuse_newer(projection: Projection, applied: list[tuple[str, str]], ours: list[Script]) -> None:
    known = {script.name for script in ours}
    newer = [name for name, _ in applied if name not in known]
    if newer:
        raise InvalidInput(
            f"projection {projection.name} is a newer Esper's (it has the migration {newer[0]}): use that Esper, or "
            f"make it anew with `esper projections rebuild {projection.name}`"
        )


def refresh(execute: Execute, kept: Kept, touched: list[Any] | None) -> None:
    """Make the kept rows of these keys anew, of all for None."""
    only = "" if touched is None else f" WHERE list_contains(?, {kept.key})"
    values = [] if touched is None else [[touched]]
    execute(f"DELETE FROM {kept.table}{only}", *values)  # noqa: S608  names of ours
    execute(f"INSERT INTO {kept.table} SELECT * FROM {kept.view}{only}", *values)  # noqa: S608  as above


def _applied(execute: Execute) -> list[tuple[str, str]] | None:
    """Names and digests of what the file has, None where it is no file of this kind, empty for an empty one."""
    tables = {name for (name,) in execute("SELECT table_name FROM information_schema.tables").fetchall()}
    if "migrations" not in tables:
        return None if tables else []
    found: list[tuple[str, str]] = execute("SELECT name, digest FROM migrations ORDER BY number").fetchall()
    return found


def _due(applied: list[tuple[str, str]] | None, ours: list[Script]) -> list[Script] | None:
    """The migrations that are missing; None where the file has to be emptied."""
    if applied is None or applied != [(each.name, each.digest) for each in ours[: len(applied)]]:
        return None
    due = ours[len(applied) :]
    again = bool(applied) and any(script.text.startswith(REBUILD) for script in due)
    return None if again else due


def _renew_views(execute: Execute, projection: Projection) -> None:
    """Views are not migrated but replaced, and what is kept of them is made again."""
    have = dict(execute("SELECT name, digest FROM views").fetchall())
    scripts = projection.view_scripts()
    if have == {each.name: each.digest for each in scripts}:
        return
    for name in have:
        execute(f"DROP VIEW IF EXISTS {name}")
    execute("DELETE FROM views")
    for script in scripts:
        execute(f"CREATE VIEW {script.name} AS {script.text}")
        execute("INSERT INTO views VALUES (?, ?)", [script.name, script.digest])
    for kept in projection.kept:
        execute(f"CREATE OR REPLACE TABLE {kept.table} AS SELECT * FROM {kept.view}")  # noqa: S608  names of ours


def _empty(execute: Execute) -> None:
    query = "SELECT table_name, table_type FROM information_schema.tables"
    for name, kind in sorted(execute(query).fetchall(), key=lambda found: found[1] != "VIEW"):
        execute(f'DROP {"VIEW" if kind == "VIEW" else "TABLE"} "{name}"')
