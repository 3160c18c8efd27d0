"""Rows out of the log: verified, each event once, as flat as those of the archive."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from esper.leyline.signing import KeyRing, ManyHeaders
from projections.columns import BODIES, LOG_COLUMNS, column_name
from projections.manifest import Place
from projections.narrow import Narrow, lawful
from streams.feed.batch import Selection
from streams.feed.cursor import PartitionCursor
from streams.fetched import Whole
from streams.fetching import name_it

REMEMBERED: Final = 65_536
"""Events of a partition in which a repeated one is known again; a repetition comes seconds after the first."""

_log = logging.getLogger(__name__)
_Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Seen:
    """The ids of the last events: at least `REMEMBERED` once there were so many, and little more than twice that."""

    def __init__(self) -> None:
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()

    def fresh(self, ids: Sequence[bytes]) -> list[bool]:
        """Whether each id comes for the first time; it is remembered from then on."""
        unknown = set(ids)
        if len(unknown) == len(ids) and unknown.isdisjoint(self._new) and unknown.isdisjoint(self._old):
            self._remember(unknown)
            return [True] * len(ids)
        answers = []
        for each in ids:
            known = each in self._new or each in self._old
            answers.append(not known)
            self._new.add(each)
        self._remember(())
        return answers

    def _remember(self, ids: Iterable[bytes]) -> None:
        self._new.update(ids)
        if len(self._new) >= REMEMBERED:
            self._old, self._new = self._new, set()


class Live:
    """Makes flat rows of the record batches of one partition, from offset `begin` on; `until` says how far it is."""

    def __init__(
        self, cursors: Sequence[PartitionCursor], selections: Mapping[str, Selection], ring: KeyRing, begin: int
    ) -> None:
        self.until = begin
        self.refused = 0
        self._cursors = {cursor.body: cursor for cursor in cursors}
        self._selections = selections
        self._ring = ring
        self._place: Place = cursors[0].place
        mine = {body: selections[body] for body in self._cursors}
        envelope = {name for selection in mine.values() for name in selection.envelope}
        self._narrow = Narrow({body: selection.body_fields for body, selection in mine.items()}, envelope)
        self._seen = Seen()
        self._waiting: dict[str, list[pa.Table]] = {body: [] for body in self._cursors}

    def put(self, batches: Sequence[Whole], until: int) -> None:
        """Take in the record batches up to offset `until`; `take` gives what is in them."""
        was_enabled = gc.isenabled()
        gc.disable()  # many objects and no cycles: collecting in the middle takes as long as all the rest
        try:
            records = [record for batch in batches if not batch.is_control_batch for record in _opened(batch)]
            if records and records[0].offset < self.until:  # a fetch begins with the batch that holds the offset
                records = [record for record in records if record.offset >= self.until]
            if records:
                self._decode(records)
            del records
        finally:
            if was_enabled:
                gc.enable()
        self.until = until

    def take(self, cursor: PartitionCursor, stop: int) -> pa.Table | None:
        """The cursor's rows that wait, up to offset `stop`."""
        taken: list[pa.Table] = []
        waiting = self._waiting[cursor.body]
        while waiting:
            offsets = waiting[0].column("log_offset").to_numpy()
            low, high = np.searchsorted(offsets, (cursor.read, stop))
            taken.append(waiting[0].slice(low, high - low))
            if high < len(offsets):
                waiting[0] = waiting[0].slice(high)
                break
            waiting.pop(0)
        taken = [rows for rows in taken if rows.num_rows]
        return pa.concat_tables(taken) if taken else None

    def _decode(self, records: list[Any]) -> None:
        payloads = [record.value or b"" for record in records]
        try:
            columns = self._narrow.columns(payloads)
        except ValueError:
            for place in self._narrow.torn(payloads):
                payloads[place] = b""  # an event without an id, which is refused like any other that breaks the rules
            columns = self._narrow.columns(payloads)
        offsets = np.array([record.offset for record in records], np.int64)
        self._name_missing(offsets)
        recorded_at_ns = columns.column("recorded_at_ns").to_numpy().tolist()
        stamps_ms = [record.timestamp for record in records]
        headers = ManyHeaders(record.headers for record in records)
        kept = lawful(columns)
        for place, _ in self._ring.refused(payloads, headers, recorded_at_ns, stamps_ms):
            kept[place] = False
        if not kept.all():
            self._refuse(offsets[~kept])
        for body in self._cursors:
            self._rows(body, records, columns, offsets, kept)

    def _name_missing(self, offsets: Any) -> None:
        """Say which offsets the log does not hold, as where a segment of it has gone."""
        before = np.concatenate(([self.until - 1], offsets[:-1]))
        for place in np.flatnonzero(offsets - before > 1).tolist():
            _log.warning(
                "%s/%d: the log does not hold offsets %d to %d", *self._place, before[place] + 1, offsets[place] - 1
            )

    def _rows(self, body: str, records: list[Any], columns: pa.RecordBatch, offsets: Any, kept: _Mask) -> None:
        """Put the flat rows of one body type among those that wait."""
        cursor = self._cursors[body]
        there = columns.column(body).is_valid().to_numpy(zero_copy_only=False) & kept & (offsets >= cursor.start)
        places = np.flatnonzero(there)
        if not len(places):
            return
        everything = len(places) == len(offsets)
        ids = columns.column("event_id") if everything else columns.column("event_id").take(pa.array(places))
        fresh = np.fromiter(self._seen.fresh(ids.to_pylist()), np.bool_, len(places)) & (offsets[places] >= cursor.read)
        if not fresh.all():
            places = places[fresh]
        if len(places):
            everything = len(places) == len(offsets)
            table = self._table(
                body,
                records if everything else [records[place] for place in places],
                columns if everything else columns.take(pa.array(places)),
                offsets[places],
            )
            self._waiting[body].append(self._selections[body].flat(table))

    def _table(self, body: str, records: list[Any], columns: pa.RecordBatch, offsets: Any) -> pa.Table:
        """The columns that the selection reads, called as in the archive."""
        struct = columns.column(body)
        fields = {column_name(field): field.name for field in BODIES[body].fields}
        made: dict[str, Any] = {
            "log_partition": pa.repeat(pa.scalar(self._place[1], pa.int32()), len(records)),
            "log_offset": offsets,
        }
        for top in self._selections[body].tops:
            if top == "log_topic":
                made[top] = pa.repeat(self._place[0], len(records))
            elif top == "log_timestamp_ms":
                made[top] = pa.array([record.timestamp for record in records], pa.int64())
            elif top not in LOG_COLUMNS:
                made[top] = pc.struct_field(struct, fields[top]) if top in fields else columns.column(top)
        return pa.table(made)

    def _refuse(self, offsets: Any) -> None:
        topic, partition = self._place
        _log.warning(
            "the feed left out %d records of %s/%d, the first at offset %d: not signed by a known key, or no events",
            len(offsets),
            topic,
            partition,
            offsets[0],
        )
        self.refused += len(offsets)


def _opened(batch: Whole) -> list[Any]:
    records, holes = batch.records()
    for each in holes:
        name_it(each)
    return records
