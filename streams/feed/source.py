"""Archive and log as one source of rows: what is archived comes from there, the rest from the log, by offset.

The log may go away and come back, be restarted on another port, or have deleted what only the archive still has: then
it is connected anew, from where the cursors are. An event is read once, because a cursor is an offset of the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from contracts.topics import LOCAL
from esper.errors import InvalidInput, LogUnavailable
from projections.columns import arrow_schema
from projections.manifest import Place
from streams.access import recognise
from streams.broker.launch import announced_address
from streams.feed.archived import Archived
from streams.feed.batch import Selection
from streams.feed.cursor import PartitionCursor
from streams.feed.live import REMEMBERED, Live
from streams.feed.log_reader import EARLIEST, LATEST, LogReader, OutOfRange
from streams.keys import load_key_ring
from streams.settings import Settings

_log = logging.getLogger(__name__)


def reader_of(data_dir: Path, brokers: str | None) -> LogReader:
    """A reader of the log at `brokers`, or of the data folder's own; raises LogUnavailable where none runs."""
    where = brokers or announced_address(data_dir)
    if where is None:
        raise LogUnavailable(
            f"no log runs for {data_dir}; start one (`esper up`) or read the archive alone with end='archive'"
        )
    recognise(where, data_dir)
    return LogReader(where)


class Source:
    """The rows of `cursors`. `brokers` is the log's address, None for the embedded one of the data folder."""

    def __init__(
        self,
        data_dir: Path,
        brokers: str | None,
        selections: Mapping[str, Selection],
        cursors: Sequence[PartitionCursor],
    ) -> None:
        self._data_dir = data_dir
        self._brokers = brokers
        self._selections = selections
        self._cursors: dict[Place, list[PartitionCursor]] = {}
        for cursor in cursors:
            self._cursors.setdefault(cursor.place, []).append(cursor)
        self._logged = [place for place in self._cursors if place[1] != LOCAL]
        self._read = cursors
        self._live: dict[Place, Live] = {}
        self._reader: LogReader | None = None
        self.refused = 0
        self.archive = Archived(data_dir / "archive", selections, cursors)
        self.archive.refresh()

    def close(self) -> None:
        """Disconnect from the log."""
        reader, self._reader = self._reader, None
        self.refused += sum(live.refused for live in self._live.values())
        self._live = {}
        if reader is not None:
            reader.close()

    def offsets(self, at: int) -> dict[Place, int]:
        """The log's offsets of all places at a time (`LogReader.offsets`); raises LogUnavailable."""
        unlogged = {place: self.archive.end(place) for place in self._cursors if place[1] == LOCAL and at == LATEST}
        if not self._logged:
            return unlogged
        with self._connected() as reader:
            return reader.offsets(self._logged, at) | unlogged

    def partitions(self) -> int:
        """How many partitions a topic has on the log now; 0 where it is not read. Raises LogUnavailable."""
        topics = {topic for topic, _ in self._logged}
        return self._reader.partitions(topics) if self._reader is not None and topics else 0

    def add(self, cursors: Sequence[PartitionCursor]) -> None:
        """Read these as well, of partitions that nobody knew; the log is connected anew."""
        self.close()
        self._read = [*self._read, *cursors]
        for cursor in cursors:
            self._cursors.setdefault(cursor.place, []).append(cursor)
        self._logged = [place for place in self._cursors if place[1] != LOCAL]
        self.archive = Archived(self._data_dir / "archive", self._selections, self._read)
        self.archive.refresh()

    def limit(self, cursor: PartitionCursor) -> int:
        """Up to which offset the cursor can be read at once."""
        archived = self.archive.end(cursor.place)
        live = self._live.get(cursor.place)
        return archived if live is None or cursor.read < archived else live.until

    def rows(self, cursor: PartitionCursor, stop: int) -> pa.Table | None:
        """The cursor's rows up to `stop`, which is not beyond the limit; None where there are none."""
        if cursor.read < self.archive.end(cursor.place):
            return self.archive.rows(cursor, stop)
        return self._live[cursor.place].take(cursor, stop)

    def no_rows(self, body: str) -> pa.Table:
        """Flat rows of a body type, without any."""
        return self._selections[body].flat(arrow_schema(body).empty_table())

    def more(self, places: Collection[Place], wait_s: float) -> None:
        """Let the log give more of `places`, or wait so long. Raises LogUnavailable while it does not answer."""
        try:
            if self._reader is None:
                self._open()
            assert self._reader is not None
            wanted = [place for place in places if place[1] != LOCAL]
            if not wanted:  # what has no log comes by the archive alone
                time.sleep(wait_s)
                self.archive.refresh()
                return
            for place, (batches, until) in self._reader.take(wanted, wait_s).items():
                self._live[place].put(batches, until)
        except OutOfRange as gone:
            _log.info("the log does not hold %s any more; the archive is asked", gone)
            self.close()
            self.archive.refresh()
        except LogUnavailable:
            self.close()
            self.archive.refresh()  # what was logged before the end may be archived by now
            raise

    def _connected(self) -> LogReader:
        reader = reader_of(self._data_dir, self._brokers)
        try:
            reader.connect({place[0] for place in self._cursors})  # of a run without a log the topic alone is there
        except BaseException:
            reader.close()
            raise
        return reader

    def _open(self) -> None:
        """Read the log from where the cursors are, and somewhat earlier to know again what comes twice."""
        self.archive.release()
        reader = self._connected()
        try:
            ring = load_key_ring(Settings.load(data=self._data_dir), reader.brokers)
            begins, ends = reader.offsets(self._logged, EARLIEST), reader.offsets(self._logged, LATEST)
            for place in self._logged:
                cursors = self._cursors[place]
                begin = self._begin(place, begins[place], ends[place], reader.brokers)
                self._live[place] = Live(cursors, self._selections, ring, begin)
                reader.seek(place, begin)
        except BaseException:
            self._live = {}
            reader.close()
            raise
        self._reader = reader

    def _begin(self, place: Place, first: int, end: int, brokers: str) -> int:
        """From which offset the log, which holds `[first, end)` of a partition, must be read."""
        cursors, archived = self._cursors[place], self.archive.end(place)
        wanted = min(max(cursor.read, archived) for cursor in cursors)
        name = f"{place[0]}/{place[1]}"
        if wanted > end:
            raise InvalidInput(
                f"{name} is wanted from offset {wanted} and the log at {brokers} ends at {end}: it is another log, so "
                "start the feed without its state, or with the data folder of that log"
            )
        if wanted < first:
            _log.warning(
                "%s: neither the archive nor the log holds offsets %d to %d; the feed goes on behind them",
                *(name, wanted, first - 1),
            )
        return max(first, wanted - REMEMBERED, min(wanted, *(cursor.start for cursor in cursors)))
