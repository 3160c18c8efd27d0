"""Rows out of the archive: of one cursor, in the order of the log, whatever files they lie in by now."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from projections import manifest
from projections.manifest import FILES, FileEntry, Manifest, Place
from projections.narrow import repeats
from projections.verify import damaged
from streams.feed.batch import Selection, offsets_of
from streams.feed.cursor import PartitionCursor

HELD: Final = 256 * 2**20
"""Bytes of read files that are kept for the other partitions' turns; one file may be more."""

_log = logging.getLogger(__name__)


class Archived:
    """What the archive holds of some cursors. It is read as the manifest was at the last `refresh`."""

    def __init__(self, folder: Path, selections: Mapping[str, Selection], cursors: Sequence[PartitionCursor]) -> None:
        self._folder = folder
        self._selections = selections
        self._cursors = cursors
        self._manifest = Manifest(generation=-1)
        self._files: dict[str, list[tuple[int, int, FileEntry]]] = {}
        self._skipped: dict[str, Any] = {}
        self._held: OrderedDict[str, dict[int, pa.Table]] = OrderedDict()

    def refresh(self) -> bool:
        """Look at the newest manifest; whether it is another one."""
        newest = manifest.load(self._folder)
        if newest.generation == self._manifest.generation:
            return False
        self._manifest = newest
        bodies = {cursor.body for cursor in self._cursors}
        entries = [entry for entry in newest.files if entry.table in bodies]
        bad = set()
        for damage in damaged(self._folder, entries):
            _log.warning("%s", damage)
            bad.add(Path(damage.path).name)
        self._files = {cursor.name: _of(cursor, entries, bad) for cursor in self._cursors}
        self._skipped = {}
        return True

    def end(self, place: Place) -> int:
        """The offset up to which the archive holds a partition."""
        return int(self._manifest.next_offsets.get(place, 0))

    def first_at(self, cursor: PartitionCursor, timestamp_ms: int) -> int | None:
        """The cursor's first offset whose record has this time or a later one; None where the archive has none."""
        found = None
        for _, _, entry in self._files.get(cursor.name, ()):
            columns = ["log_partition", "log_offset", "log_timestamp_ms"]
            rows = pq.ParquetFile(self._path(entry)).read(columns=columns, use_threads=False)
            late = rows["log_timestamp_ms"].to_numpy() >= timestamp_ms
            mine = rows.filter(late & (rows["log_partition"].to_numpy() == cursor.partition))
            if mine.num_rows:
                first = int(offsets_of(mine).min())
                found = first if found is None else min(first, found)
        return found

    def rows(self, cursor: PartitionCursor, stop: int) -> pa.Table | None:
        """The cursor's rows from where it is up to `stop`, each event once; None where there are none."""
        try:
            parts = [part for part in self._parts(cursor, stop) if part.num_rows]
        except FileNotFoundError:  # merged meanwhile, and held too long
            self.refresh()
            parts = [part for part in self._parts(cursor, stop) if part.num_rows]
        if not parts:
            return None
        rows = pa.concat_tables(parts)
        offsets = offsets_of(rows)
        if len(parts) > 1 and (np.diff(offsets) < 0).any():
            order = np.argsort(offsets, kind="stable")
            rows, offsets = rows.take(order), offsets[order]
        skipped = self._repeated(cursor)
        if len(skipped):
            first, last = np.searchsorted(skipped, (offsets[0], offsets[-1] + 1))
            if last > first:
                rows = rows.filter(np.isin(offsets, skipped[first:last], invert=True))
        return rows

    def release(self) -> None:
        """Hold no rows any more; what is asked for is read again."""
        self._held.clear()

    def _parts(self, cursor: PartitionCursor, stop: int) -> list[pa.Table]:
        parts = []
        for first, end, entry in self._files.get(cursor.name, ()):
            if first >= stop:
                break
            if end > cursor.read:
                rows = self._of_file(entry).get(cursor.partition)
                if rows is not None:
                    low, high = np.searchsorted(offsets_of(rows), (cursor.read, stop))
                    parts.append(rows.slice(low, high - low))
        return parts

    def _of_file(self, entry: FileEntry) -> dict[int, pa.Table]:
        """A file's flat rows by partition, in the order of their offsets."""
        found = self._held.get(entry.name)
        if found is not None:
            self._held.move_to_end(entry.name)
            return found
        selection = self._selections[entry.table]
        read = pq.ParquetFile(self._path(entry)).read(columns=selection.stored, use_threads=False)
        found = _split(
            selection.flat(read), {cursor.partition for cursor in self._cursors if cursor.body == entry.table}
        )
        self._held[entry.name] = found
        while len(self._held) > 1 and sum(_size(each) for each in self._held.values()) > HELD:
            self._held.popitem(last=False)
        return found

    def _repeated(self, cursor: PartitionCursor) -> Any:
        """The offsets of the cursor whose event came before, from where the pass began."""
        if cursor.name not in self._skipped:
            mates = [each for each in self._cursors if each.body == cursor.body]
            entries = {entry.name: entry for each in mates for _, _, entry in self._files[each.name]}
            paths = [self._path(entry) for entry in entries.values()]
            found = repeats(paths, {each.partition: each.start for each in mates})
            for each in mates:
                self._skipped[each.name] = np.array(found.get(each.partition, []), np.int64)
        return self._skipped[cursor.name]

    def _path(self, entry: FileEntry) -> Path:
        return self._folder / FILES / entry.name


def _of(cursor: PartitionCursor, entries: Sequence[FileEntry], bad: set[str]) -> list[tuple[int, int, FileEntry]]:
    """The files that hold rows of the cursor, by their first offset."""
    found = [
        (*entry.offsets[cursor.place], entry)
        for entry in entries
        if entry.table == cursor.body and cursor.place in entry.offsets and entry.name not in bad
    ]
    return sorted(found, key=lambda each: each[:2])


def _split(rows: pa.Table, partitions: set[int]) -> dict[int, pa.Table]:
    """Flat rows by partition and then by offset: merged files are ordered by run."""
    rows = rows.combine_chunks()
    places, offsets = rows.column("log_partition").to_numpy(), offsets_of(rows)
    kept = np.isin(places, list(partitions))
    order = np.lexsort((offsets, places))
    if not kept.all():
        order = order[kept[order]]
    if len(order) != len(offsets) or (np.diff(order) != 1).any():
        rows = rows.take(order)
        places = places[order]
    bounds = {partition: np.searchsorted(places, (partition, partition + 1)) for partition in sorted(partitions)}
    return {partition: rows.slice(low, high - low) for partition, (low, high) in bounds.items()}


def _size(held: Mapping[int, pa.Table]) -> int:
    return sum(int(rows.nbytes) for rows in held.values())
