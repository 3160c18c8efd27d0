"""One pass of one reader: which lane is read when, and when a batch is due."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from esper.errors import LogUnavailable
from projections.manifest import Place
from streams.feed import lanes as lanes_
from streams.feed.batch import Batch, decode
from streams.feed.fetching import LATEST
from streams.feed.lanes import Lane, Shard
from streams.feed.pending import Pending
from streams.feed.schema import Schema
from streams.feed.source import Source

Start: TypeAlias = Literal["beginning", "new"] | datetime | Mapping[Place, int]
End: TypeAlias = Literal["archive", "now", "never"]

LINGER_S: Final = 0.5
"""How long a follower's event waits for others to fill its batch."""
PATIENCE_S: Final = 30.0
"""How long a pass that has an end waits for a log that is away; a follower waits for ever."""
AGAIN_S: Final = 0.5

_log = logging.getLogger(__name__)


class Pass:
    """One pass of one reader: its lanes, and the batches that come of them."""

    def __init__(self, schemas: Mapping[str, Schema], source: Source, lanes: list[Lane], shard: Shard) -> None:
        self._schemas = schemas
        self._source = source
        self._lanes = lanes
        self._shard = shard
        self._pending = {body: Pending(body) for body in sorted(schemas)}
        self._follows = False
        self._away_since: float | None = None

    def begin(self, start: Start, end: End, loaded: Mapping[str, Any] | None) -> None:
        """Go to where a new pass begins, or to where the loaded one was left. Raises LogUnavailable, InvalidInput."""
        self._follows = end == "never"
        if loaded is None:
            _begin(self._lanes, self._source, start, end)
        else:
            lanes_.restore(self._lanes, self._shard, loaded)
        _end(self._lanes, self._source, end)

    def state(self, epoch: int) -> dict[str, Any]:
        """Behind the batches that were given out."""
        for lane in self._lanes:
            waiting = self._pending[lane.body].first(lane)
            lane.next = lane.read if waiting is None else waiting
        return lanes_.to_state(self._lanes, self._shard, epoch)

    def batches(self, size: int) -> Iterator[Batch | None]:
        """None, and then the batches, of `size` events; whatever ends this disconnects from the log."""
        try:
            yield None
            while opened := [lane for lane in self._lanes if lane.end is None or lane.read < lane.end]:
                lane = self._turn(opened)
                if lane is None:
                    self._wait(opened)
                else:
                    self._advance(lane)
                yield from self._full(size)
            for pending in self._pending.values():
                while pending.rows:
                    yield self._batch(pending, size)
        finally:
            self._source.close()

    def _turn(self, opened: list[Lane]) -> Lane | None:
        """The lane to read next; None where the log must give more first."""
        if self._follows:
            ready = [lane for lane in opened if lane.read < self._source.limit(lane)]
            return min(ready, key=lambda lane: lane.turn, default=None)
        lane = min(opened, key=lambda lane: lane.turn)
        return lane if lane.read < self._source.limit(lane) else None

    def _advance(self, lane: Lane) -> None:
        stop = min(lane.stop, self._source.limit(lane))
        rows = self._source.rows(lane, stop)
        lane.read = stop
        if rows is not None and rows.num_rows:
            self._pending[lane.body].add(lane, rows)

    def _wait(self, opened: list[Lane]) -> None:
        """Let the log give more: to a follower of any partition, else of the one whose turn it is."""
        needed = opened if self._follows else [min(opened, key=lambda lane: lane.turn)]
        try:
            self._source.more(list(dict.fromkeys(lane.place for lane in needed)))
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

    def _full(self, size: int) -> Iterator[Batch]:
        """The batches that are due."""
        for pending in self._pending.values():
            while pending.rows >= size or (self._follows and pending.waited_s() > LINGER_S):
                yield self._batch(pending, size)

    def _batch(self, pending: Pending, size: int) -> Batch:
        return decode(self._schemas[pending.body], pending.take(size))


def _begin(lanes: list[Lane], source: Source, start: Start, end: End) -> None:
    """Where a new pass begins, lane by lane."""
    if start == "new":
        newest = source.offsets(LATEST) if lanes else {}
        begins = {lane.name: newest[lane.place] for lane in lanes}
    elif isinstance(start, datetime):
        begins = _at_time(lanes, source, round(start.timestamp() * 1000), logged=end != "archive")
    elif isinstance(start, Mapping):
        begins = {lane.name: start.get(lane.place, 0) for lane in lanes}
    else:
        begins = dict.fromkeys((lane.name for lane in lanes), 0)
    for lane in lanes:
        lane.start = lane.next = lane.read = begins[lane.name]


def _end(lanes: list[Lane], source: Source, end: End) -> None:
    """Where a pass ends, lane by lane: where it would have ended when it began, unless it was to follow."""
    open_ended = [lane for lane in lanes if lane.end is None]
    if end == "never":
        for lane in lanes:
            lane.end = None
    elif open_ended:
        ends = source.offsets(LATEST) if end == "now" else {}
        for lane in open_ended:
            lane.end = max(source.archive.end(lane.place), ends.get(lane.place, 0))


def _at_time(lanes: list[Lane], source: Source, timestamp_ms: int, *, logged: bool) -> dict[str, int]:
    """The first offset of each lane at or after a time, in the archive, else on the log, else its end."""
    begins = {lane.name: source.archive.first_at(lane, timestamp_ms) for lane in lanes}
    later = source.offsets(timestamp_ms) if logged and None in begins.values() else {}
    newest = source.offsets(LATEST) if -1 in later.values() else {}
    found: dict[str, int] = {}
    for lane in lanes:
        begin = begins[lane.name]
        if begin is None:
            offset = later.get(lane.place, -1)
            begin = newest.get(lane.place, 0) if offset < 0 else offset
            begin = max(begin, source.archive.end(lane.place))
        found[lane.name] = begin
    return found
