"""What a projection is: the topics it follows, the rows that an event makes, and its tables, as SQL with a history.

Every event makes at most one row, kept under the event's id: a repetition changes nothing. No row depends on another,
so the order in which topics arrive does not matter; views put the rows together. That is why every projection is the
same whatever was delivered twice, in whatever order, and however often its process was killed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, TypeAlias

from contracts.topics import RUNS, Topic
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
