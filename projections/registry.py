"""All projections by name, where their files are, and each out of the archive alone: made anew, and looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import duckdb

from esper.errors import CorruptState, InvalidInput
from projections.experience import EXPERIENCE
from projections.history import History
from projections.library import URZA
from projections.manifest import Place
from projections.projection import Projection
from projections.records import StoredRecord
from projections.store import Locked, Store, Taken, connected

PROJECTIONS: Final[Mapping[str, Projection]] = {each.name: each for each in (URZA, EXPERIENCE)}


def named(name: str) -> Projection:
    """The projection of this name; raises InvalidInput where there is none."""
    found = PROJECTIONS.get(name)
    if found is None:
        raise InvalidInput(f"there is no projection {name!r}; there are {', '.join(PROJECTIONS)}")
    return found


def file_of(data_dir: Path, projection: Projection) -> Path:
    """The projection's file in a data folder."""
    return data_dir / "projections" / f"{projection.name}.duckdb"


BATCH: Final = 5_000


State = Literal["absent", "ready", "kept", "older", "newer", "unreadable"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a projection's file is: absent, ready, kept by a running process, or of an Esper with other migrations."""

    state: State
    bytes: int = 0
    migrations: tuple[str, ...] = ()
    next_offsets: Mapping[Place, int] = field(default_factory=dict)


def follow(store: Store, history: History, progress: Callable[[int, int], None], *, whole: bool = True) -> Taken:
    """Fold what the archive has beyond the store; `progress` gets how many records of how many are done.

    Raises CorruptState where a file that the projection needs is damaged: its rows would be missing for ever. Unless it
    has to be `whole`: then the store has the rest, and is made anew when it is opened again.
    """
    projection = store.projection
    bodies = [body for body in projection.bodies if history.manifest.of(body)]
    for damage in history.damage:
        if damage.table in bodies:
            if whole:
                raise CorruptState(f"projection {projection.name} cannot be made from a damaged archive: {damage}")
            store.distrust(str(damage))
    ends = {
        place: offset
        for place, offset in history.manifest.next_offsets.items()
        if place[0] in {topic.name for topic in projection.sources}
    }
    total, done, taken = _count(history, bodies, store.next_offsets), 0, Taken()
    progress(0, total)
    for batch in _records(history, bodies, store.next_offsets, signed=store.verifies):
        part = store.take(batch)
        taken.folded += part.folded
        taken.repeated += part.repeated
        taken.refused += part.refused
        done += len(batch)
        progress(done, total)
    store.take([], upto=ends)
    return taken


def follow_what_the_log_lost(store: Store, archive: Path, begins: Mapping[Place, int]) -> Taken:
    """Fold from the archive where the log, which begins at `begins`, has no more what comes next in the store.

    So a projection that was deleted or put back from an older copy misses nothing that only the archive has. Raises
    CorruptState where there is no reading of the archive at all.
    """
    sources = {topic.name for topic in store.projection.sources}
    if any(begin > store.next_offsets.get(place, 0) for place, begin in begins.items() if place[0] in sources):
        with History(archive) as history:
            return follow(store, history, lambda _done, _of: None, whole=False)
    return Taken()


def rebuild(
    projection: Projection,
    data_dir: Path,
    history: History,
    progress: Callable[[int, int], None] = lambda _n, _of: None,
) -> Taken:
    """Make a projection anew beside its file, and put it in the file's place when it is whole.

    Raises Locked where a running process keeps the file: that one would go on with the old one.
    """
    path = file_of(data_dir, projection)
    building = path.with_name(f"{path.name}.building")
    _remove(building)
    held = _held(path)
    try:
        with Store(projection, building, None) as store:
            taken = follow(store, history, progress)
        if held is not None:
            held.close()
            held = None
        _remove(path)
        building.replace(path)
    finally:
        if held is not None:
            held.close()
    return taken


def seen(projection: Projection, data_dir: Path) -> Seen:
    """What a projection's file is now; it is only read."""
    path = file_of(data_dir, projection)
    if not path.exists():
        return Seen("absent")
    size = path.stat().st_size
    try:
        connection = connected(path, read_only=True)
    except Locked:
        return Seen("kept", size)
    except duckdb.Error:
        return Seen("unreadable", size)
    try:
        applied = connection.execute("SELECT name, digest FROM migrations ORDER BY number").fetchall()
        places = connection.execute("SELECT topic, partition, next_offset FROM offsets").fetchall()
    except duckdb.Error:
        return Seen("older", size)
    finally:
        connection.close()
    offsets = {(topic, partition): offset for topic, partition, offset in places}
    return Seen(_state(projection, applied), size, tuple(name for name, _ in applied), offsets)


def behind(projection: Projection, offsets: Mapping[Place, int], ends: Mapping[Place, int]) -> dict[str, int]:
    """How many records of each topic lie between `offsets` and `ends`."""
    return {
        topic.name: sum(max(0, end - offsets.get(place, 0)) for place, end in ends.items() if place[0] == topic.name)
        for topic in projection.sources
    }


def _state(projection: Projection, applied: list[tuple[str, str]]) -> State:
    ours = [(script.name, script.digest) for script in projection.migrations()]
    if applied == ours:
        return "ready"
    return "newer" if {name for name, _ in applied} - {name for name, _ in ours} else "older"


def _held(path: Path) -> duckdb.DuckDBPyConnection | None:
    """The old file, held so that no process opens it meanwhile; None where there is none that could be opened."""
    if not path.exists():
        return None
    try:
        return connected(path)
    except Locked:
        raise
    except duckdb.Error:
        return None


def _remove(path: Path) -> None:
    for file in (path, path.with_name(f"{path.name}.wal")):
        file.unlink(missing_ok=True)


def _from(bodies: list[str], offsets: Mapping[Place, int], columns: str) -> str:
    after = " AND ".join(
        f"NOT (log_topic = '{topic}' AND log_partition = {partition} AND log_offset < {offset})"
        for (topic, partition), offset in offsets.items()
    )
    parts = [f'SELECT {columns} FROM log."{body}" WHERE {after or "true"}' for body in bodies]  # noqa: S608  ours
    return " UNION ALL ".join(parts)


def _count(history: History, bodies: list[str], offsets: Mapping[Place, int]) -> int:
    if not bodies:
        return 0
    answer = history.cursor(
        f"SELECT count(*) FROM ({_from(bodies, offsets, 'log_offset')})"  # noqa: S608  names of ours
    )
    ((count,),) = answer.fetchall()
    return int(count)


def _records(history: History, bodies: list[str], offsets: Mapping[Place, int], *, signed: bool) -> Iterator[list[Any]]:
    """The records of these bodies, partition by partition in the order of offsets; `signed` with their headers."""
    if not bodies:
        return
    columns = f"log_topic, log_partition, log_offset, log_timestamp_ms, log_key, log_raw{', log_headers' * signed}"
    cursor = history.cursor(f"{_from(bodies, offsets, columns)} ORDER BY log_topic, log_partition, log_offset")
    while rows := cursor.fetchmany(BATCH):
        yield [
            StoredRecord(topic, partition, offset, timestamp_ms, key, value, _pairs(headers))
            for topic, partition, offset, timestamp_ms, key, value, *headers in rows
        ]


def _pairs(headers: list[Any]) -> tuple[tuple[str, bytes | None], ...]:
    return tuple((each["key"], each["value"]) for each in (headers[0] if headers else ()))
