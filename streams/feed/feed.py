"""`EventFeed`: history and then the live log as one PyTorch dataset of batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from torch.utils.data import IterableDataset

from esper.errors import InvalidInput, LogUnavailable
from projections.manifest import Place
from streams.feed import lanes as lanes_
from streams.feed.batch import Batch, decode
from streams.feed.fetching import LATEST
from streams.feed.lanes import Lane, Shard
from streams.feed.pending import Pending
from streams.feed.schema import Schema
from streams.feed.selection import Selection, Tasks
from streams.feed.source import Source
from streams.settings import Settings

Start: TypeAlias = Literal["beginning", "new"] | datetime | Mapping[Place, int]
End: TypeAlias = Literal["archive", "now", "never"]

LINGER_S: Final = 0.5
"""How long a follower's event waits for others to fill its batch."""
PATIENCE_S: Final = 30.0
"""How long a pass that has an end waits for a log that is away; a follower waits for ever."""
AGAIN_S: Final = 0.5

_log = logging.getLogger(__name__)


class EventFeed(IterableDataset[Batch]):
    """Batches of the events of one or more `schemas`, each event once a pass, over all DataLoader workers and ranks.

    Give it to a DataLoader with `batch_size=None`, or iterate over it. A batch is of one schema and has `batch_size`
    events; the last of a pass has fewer, and so has one of a follower after half a second.

    Args:
        data_dir: the data folder.
        schemas: what is wanted, one per body type.
        start: "beginning"; "new", what is logged from now on; a time; or the first offset by (topic, partition), where
            a partition that is not named is read from its beginning.
        end: "archive", what is archived when the pass begins; "now", what is on the log then; "never", follow the log.
        runs: only these runs.
        tasks: only runs of these tasks.
        batch_size: events in a batch.
        brokers: HOST:PORT of the log; by default ESPER_BROKERS, else the embedded log of the data folder.

    A partition's events come in the order of the log. A pass with an end has the same order whenever it is repeated
    with that end, however archive and log share the events by then. An event that was delivered twice comes once: in
    the archive always, live when it is repeated within 65,536 records of its partition.

    `state_dict` after a batch and `load_state_dict` before iterating go on behind that batch, to where that pass was to
    end; with the state of a follower, to this feed's end. With workers the state is theirs: use torchdata's
    StatefulDataLoader, which keeps it.

    Raises InvalidInput for what does not fit, LogUnavailable where a log is needed and does not answer.
    """

    def __init__(
        self,
        data_dir: Path | str,
        *schemas: Schema,
        start: Start = "beginning",
        end: End = "archive",
        runs: Iterable[str] | None = None,
        tasks: Iterable[str] | None = None,
        batch_size: int = 1024,
        brokers: str | None = None,
    ) -> None:
        super().__init__()
        self.data_dir = Path(data_dir)
        self.schemas = {schema.body: schema for schema in schemas}
        self.start, self.end = start, end
        self.runs = None if runs is None else frozenset(runs)
        self.tasks = None if tasks is None else frozenset(tasks)
        self.batch_size = batch_size
        self.brokers = brokers or Settings.load().brokers
        self._epoch = 0
        self._rank = lanes_.rank_now()
        self._loaded: dict[str, Any] | None = None
        self._pass: Pass | None = None
        self._check(len(schemas))

    def __iter__(self) -> Iterator[Batch]:
        """A pass: what is left of the loaded one, else a new one."""
        loaded, self._loaded = self._loaded, None
        self._epoch = loaded["epoch"] if loaded is not None else self._epoch + 1
        self._pass = Pass(self, lanes_.shard_of(*self._ranks()), self._epoch, loaded)
        batches = self._pass.batches()
        next(batches)  # from here on its end, whatever that is, disconnects from the log
        return (batch for batch in batches if batch is not None)

    def state_dict(self) -> dict[str, Any]:
        """Where the job is, as numbers and texts; of this reader alone."""
        if self._pass is None:
            return dict(self._loaded or {})
        return self._pass.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state` with the next iteration."""
        self._loaded = dict(state) or None
        self._pass = None

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process gets: a feed that has not begun, and the rank that its process cannot know."""
        return {**self.__dict__, "_pass": None, "_rank": self._ranks()}

    def _ranks(self) -> tuple[int, int]:
        now = lanes_.rank_now()
        return now if now[1] > 1 else self._rank

    def _check(self, given: int) -> None:
        if not self.schemas or len(self.schemas) < given:
            raise InvalidInput("a feed needs schemas, one per event type, such as streams.feed.FIELD_REPORTS")
        if self.batch_size < 1:
            raise InvalidInput(f"batch_size is {self.batch_size}; a batch has one event at least")
        if self.end not in {"archive", "now", "never"}:
            raise InvalidInput(f"end is {self.end!r}; there are 'archive', 'now' and 'never'")
        if isinstance(self.start, str) and self.start not in {"beginning", "new"}:
            raise InvalidInput(f"start is {self.start!r}; there are 'beginning', 'new', a datetime, and offsets")


class Pass:
    """One pass of one reader: its lanes, and the batches that come of them."""

    def __init__(self, feed: EventFeed, shard: Shard, epoch: int, loaded: Mapping[str, Any] | None) -> None:
        self._shard = shard
        self._epoch = epoch
        self._batch_size = feed.batch_size
        self._follows = feed.end == "never"
        self._schemas = feed.schemas
        tasks = None if feed.tasks is None else Tasks(feed.data_dir / "archive", feed.tasks)
        selections = {body: Selection(schema, feed.runs, tasks) for body, schema in feed.schemas.items()}
        self._lanes = shard.lanes(feed.schemas)
        self._pending = {body: Pending(body) for body in sorted(feed.schemas)}
        self._source = Source(feed.data_dir, feed.brokers, selections, self._lanes)
        self._away_since: float | None = None
        if loaded is None:
            _begin(self._lanes, self._source, feed.start, feed.end)
        else:
            lanes_.restore(self._lanes, shard, loaded)
        _end(self._lanes, self._source, feed.end)

    def state(self) -> dict[str, Any]:
        """Behind the batches that were given out."""
        for lane in self._lanes:
            waiting = self._pending[lane.body].first(lane)
            lane.next = lane.read if waiting is None else waiting
        return lanes_.to_state(self._lanes, self._shard, self._epoch)

    def batches(self) -> Iterator[Batch | None]:
        """None, and then the batches."""
        try:
            yield None
            while opened := [lane for lane in self._lanes if lane.end is None or lane.read < lane.end]:
                lane = self._turn(opened)
                if lane is None:
                    self._wait(opened)
                else:
                    self._advance(lane)
                yield from self._full()
            for pending in self._pending.values():
                while pending.rows:
                    yield self._batch(pending)
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

    def _full(self) -> Iterator[Batch]:
        """The batches that are due."""
        for pending in self._pending.values():
            while pending.rows >= self._batch_size or (self._follows and pending.waited_s() > LINGER_S):
                yield self._batch(pending)

    def _batch(self, pending: Pending) -> Batch:
        return decode(self._schemas[pending.body], pending.take(self._batch_size))


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
