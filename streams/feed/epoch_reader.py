"""One pass of one reader over the events: which partition is read when, and when a batch is due."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import pyarrow as pa

from esper.errors import LogUnavailable
from projections.manifest import Place
from streams.consumer import LOOK_FOR_MORE_S
from streams.feed.batch import Batch, decode
from streams.feed.cursor import PartitionCursor, Shard, restore, to_state
from streams.feed.log_reader import LATEST
from streams.feed.schema import Schema
from streams.feed.source import Source

Start: TypeAlias = Literal["beginning", "new"] | datetime | Mapping[Place, int]
End: TypeAlias = Literal["archive", "now", "never"]
LINGER_S: Final = 0.5
"""How long a follower's event waits for others to fill its batch."""
PATIENCE_S: Final = 30.0
"""How long a pass that has an end waits for a log that is away; a follower waits for ever."""
AGAIN_S: Final = 0.5
WAIT_S: Final = 0.2
"""How long the log is given to have something new."""
TURN_S: Final = 0.05
"""The same where others' batches may wait for this one's: at least twenty of theirs come a second."""
_log = logging.getLogger(__name__)


class Pending:
    """The rows of one body type that were read and not yet handed to the job, in the order of reading."""

    def __init__(self, body: str) -> None:
        self.body = body
        self.rows = 0
        self._since_s = 0.0
        self._parts: deque[tuple[PartitionCursor, pa.Table]] = deque()

    def add(self, cursor: PartitionCursor, rows: pa.Table) -> None:
        """Append what was read from `cursor`."""
        if not self.rows:
            self._since_s = time.monotonic()
        self._parts.append((cursor, rows))
        self.rows += rows.num_rows

    def waited_s(self) -> float:
        """How long the first of the rows has waited; 0 where none does."""
        return time.monotonic() - self._since_s if self.rows else 0.0

    def first(self, cursor: PartitionCursor) -> int | None:
        """The lowest offset of `cursor` that waits here; None where none does."""
        for each, rows in self._parts:
            if each is cursor:
                return int(rows.column("log_offset")[0].as_py())
        return None

    def take(self, count: int) -> pa.Table:
        """The first `count` rows, fewer where there are not so many."""
        taken: list[pa.Table] = []
        while self._parts and count > 0:
            cursor, rows = self._parts[0]
            taken.append(rows.slice(0, count))
            if rows.num_rows > count:
                self._parts[0] = (cursor, rows.slice(count))
            else:
                self._parts.popleft()
            count -= taken[-1].num_rows
            self.rows -= taken[-1].num_rows
        return pa.concat_tables(taken)


class EpochReader:
    """One pass of one reader: its cursors, and the batches that come of them."""

    def __init__(
        self,
        schemas: Mapping[str, Schema],
        source: Source,
        cursors: Sequence[PartitionCursor],
        shard: Shard,
        partitions: int,
    ) -> None:
        self._schemas = schemas
        self._source = source
        self._cursors = list(cursors)
        self._shard = shard
        self._partitions = partitions
        self._ask_at = 0.0
        self._pending = {body: Pending(body) for body in sorted(schemas)}
        self._follows = False
        self._empty: Batch | None = None
        self._away_since: float | None = None

    def begin(self, start: Start, end: End, loaded: Mapping[str, Any] | None) -> None:
        """Go to where a new pass begins, or to where the loaded one was left. Raises LogUnavailable, InvalidInput."""
        self._follows = end == "never"
        if loaded is None:
            _begin(self._cursors, self._source, start, end)
        else:
            restore(self._cursors, self._shard, loaded)
        _end(self._cursors, self._source, end)

    def state(self, epoch: int) -> dict[str, Any]:
        """Behind the batches that were given out."""
        for cursor in self._cursors:
            waiting = self._pending[cursor.body].first(cursor)
            cursor.next = cursor.read if waiting is None else waiting
        return to_state(self._cursors, self._shard, epoch)

    def batches(self, size: int) -> Iterator[Batch | None]:
        """None, and then the batches, of `size` events; whatever ends this disconnects from the log."""
        try:
            yield None
            while opened := [cursor for cursor in self._cursors if cursor.end is None or cursor.read < cursor.end]:
                cursor = self._turn(opened)
                if cursor is None:
                    self._wait(opened)
                else:
                    self._advance(cursor)
                given = 0
                for batch in self._full(size):
                    given += 1
                    yield batch
                if cursor is None and not given and self._gives_way:
                    yield self._nothing()
            for pending in self._pending.values():
                while pending.rows:
                    yield self._batch(pending, size)
        finally:
            self._source.close()

    @property
    def _gives_way(self) -> bool:
        """Whether others must not wait for this reader: a DataLoader takes a batch from each worker in turn."""
        return self._follows and self._shard.count > 1

    def _nothing(self) -> Batch:
        """A batch of no events, which says that there are none here now; what was read stays where it is."""
        if self._empty is None:
            body = min(self._schemas)
            self._empty = decode(self._schemas[body], self._source.no_rows(body))
        return self._empty

    def _turn(self, opened: list[PartitionCursor]) -> PartitionCursor | None:
        """The cursor to read next; None where the log must give more first."""
        if self._follows:
            ready = [cursor for cursor in opened if cursor.read < self._source.limit(cursor)]
            return min(ready, key=lambda cursor: cursor.turn, default=None)
        cursor = min(opened, key=lambda cursor: cursor.turn)
        return cursor if cursor.read < self._source.limit(cursor) else None

    def _advance(self, cursor: PartitionCursor) -> None:
        stop = min(cursor.stop, self._source.limit(cursor))
        rows = self._source.rows(cursor, stop)
        cursor.read = stop
        if rows is not None and rows.num_rows:
            self._pending[cursor.body].add(cursor, rows)

    def _wait(self, opened: list[PartitionCursor]) -> None:
        """Let the log give more: to a follower of any partition, else of the one whose turn it is."""
        needed = opened if self._follows else [min(opened, key=lambda cursor: cursor.turn)]
        try:
            wait_s = TURN_S if self._gives_way else WAIT_S
            self._source.more(list(dict.fromkeys(cursor.place for cursor in needed)), wait_s)
            self._take_in_added()
        except LogUnavailable as error:
            now = time.monotonic()
            if self._away_since is None:
                self._away_since = now
                _log.warning("the feed waits for the log: %s", error)
            if not self._follows and now - self._away_since > PATIENCE_S:
                raise
            time.sleep(AGAIN_S)
        else:
            self._away_since = None

    def _take_in_added(self) -> None:
        """Follow what somebody has added of partitions, too, from its beginning on; the log is asked every so often."""
        now = time.monotonic()
        if not self._follows or now < self._ask_at:
            return
        self._ask_at = now + LOOK_FOR_MORE_S
        count = self._source.partitions()
        if count <= self._partitions:
            return
        added = self._shard.cursors(self._schemas, range(self._partitions, count))
        _log.info("partitions were added: a topic has %d now, and had %d", count, self._partitions)
        self._partitions = count
        if added:
            self._cursors += added
            self._source.add(added)

    def _full(self, size: int) -> Iterator[Batch]:
        """The batches that are due."""
        for pending in self._pending.values():
            while pending.rows >= size or (self._follows and pending.waited_s() > LINGER_S):
                yield self._batch(pending, size)

    def _batch(self, pending: Pending, size: int) -> Batch:
        return decode(self._schemas[pending.body], pending.take(size))


def _begin(cursors: list[PartitionCursor], source: Source, start: Start, end: End) -> None:
    """Where a new pass begins, cursor by cursor."""
    if start == "new":
        newest = source.offsets(LATEST) if cursors else {}
        begins = {cursor.name: newest[cursor.place] for cursor in cursors}
    elif isinstance(start, datetime):
        begins = _at_time(cursors, source, round(start.timestamp() * 1000), logged=end != "archive")
    elif isinstance(start, Mapping):
        begins = {cursor.name: start.get(cursor.place, 0) for cursor in cursors}
    else:
        begins = dict.fromkeys((cursor.name for cursor in cursors), 0)
    for cursor in cursors:
        cursor.start = cursor.next = cursor.read = begins[cursor.name]


def _end(cursors: list[PartitionCursor], source: Source, end: End) -> None:
    """Where a pass ends, cursor by cursor: where it would have ended when it began, unless it was to follow."""
    open_ended = [cursor for cursor in cursors if cursor.end is None]
    if end == "never":
        for cursor in cursors:
            cursor.end = None
    elif open_ended:
        ends = source.offsets(LATEST) if end == "now" else {}
        for cursor in open_ended:
            cursor.end = max(source.archive.end(cursor.place), ends.get(cursor.place, 0))


def _at_time(cursors: list[PartitionCursor], source: Source, timestamp_ms: int, *, logged: bool) -> dict[str, int]:
    """The first offset of each cursor at or after a time, in the archive, else on the log, else its end."""
    begins = {cursor.name: source.archive.first_at(cursor, timestamp_ms) for cursor in cursors}
    later = source.offsets(timestamp_ms) if logged and None in begins.values() else {}
    newest = source.offsets(LATEST) if -1 in later.values() else {}
    found: dict[str, int] = {}
    for cursor in cursors:
        begin = begins[cursor.name]
        if begin is None:
            offset = later.get(cursor.place, -1)
            begin = newest.get(cursor.place, 0) if offset < 0 else offset
            begin = max(begin, source.archive.end(cursor.place))
        found[cursor.name] = begin
    return found
