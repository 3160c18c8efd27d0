"""One partition: segments in a folder, the next offset, and the fetches that wait for more records.

The file `tail` keeps two numbers, so that an offset once given is never given again. `next_offset` is written after
every append without waiting for the disk: it survives the death of the process. `reserved` is on the disk before any
offset beyond it is given: it survives the death of the machine, which may take with it the last half second of records
that readers have already seen.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from kio.schema.errors import ErrorCode

from streams.broker.batch import Batch, absent
from streams.broker.folder import TAIL_ID_AT, open_file, packed_id, segments_in
from streams.broker.producers import Producers
from streams.broker.protocol import Refused
from streams.broker.segment import MAX_LOST, Segment, recover_active, recover_closed, segment_path
from streams.broker.segment_index import Index

RESERVE: Final = 1 << 18
"""Offsets reserved at a time: four fdatasyncs a second at a million records a second, one a day on a laptop."""
_LAYOUT: Final = struct.Struct(">qqI")
_LOG: Final = logging.getLogger(__name__)


class TailMark:
    """The high-water file of one partition."""

    def __init__(self, path: Path) -> None:
        self._fd = open_file(path, os.O_RDWR | os.O_CREAT)
        self.next_offset = 0
        self.reserved = 0
        self._unreadable = False
        self._load()

    def _load(self) -> None:
        data = os.pread(self._fd, _LAYOUT.size, 0)
        if not data.strip(b"\0"):
            return
        if len(data) == _LAYOUT.size and zlib.crc32(data[:16]) == _LAYOUT.unpack(data)[2]:
            self.next_offset, self.reserved, _ = _LAYOUT.unpack(data)
        else:
            self._unreadable = True

    @property
    def lost(self) -> bool:
        """The file said nothing that can be read."""
        return self._unreadable or not self.reserved

    def recover(self, scanned: int, *, machine_died: bool, used: bool, older: bool = False) -> None:
        """Settles the next offset after a start: `scanned` is the greatest that anything else knows of.

        `used` says that there were bytes in the segments, of which damage may have left no record to be scanned;
        `older` that the file is from before the last append.

        Whatever may have been given before is passed over: what the file says after the death of the process, the
        whole reservation after that of the machine, and more than any reservation when the file is lost.
        """
        if self._unreadable or older or ((scanned or used) and self.lost):
            scanned += 2 * RESERVE
        self.next_offset = max(scanned, self.next_offset, self.reserved if machine_died else 0)
        self.reserve(self.next_offset)

    def name(self, topic_id: str) -> None:
        """Has the file say whose it is; the next sync of it brings that to the disk."""
        packed = packed_id(topic_id)
        if os.pread(self._fd, len(packed), TAIL_ID_AT) != packed:
            os.pwrite(self._fd, packed, TAIL_ID_AT)

    def reserve(self, up_to: int) -> None:
        """Makes offsets below `up_to` safe to give.

        Raises:
            OSError: the disk refuses; nothing may be given.
        """
        if up_to <= self.reserved:
            return
        before = self.reserved
        self.reserved = up_to + RESERVE
        try:
            self._write()
            os.fdatasync(self._fd)
        except OSError:
            self.reserved = before
            raise

    def advance(self, next_offset: int) -> None:
        """Notes that every offset below `next_offset` is given."""
        self.next_offset = next_offset
        self._write()

    def _write(self) -> None:
        numbers = _LAYOUT.pack(self.next_offset, self.reserved, 0)[:16]
        os.pwrite(self._fd, numbers + struct.pack(">I", zlib.crc32(numbers)), 0)

    def close(self) -> None:
        """Puts the last state on the disk and lets go of the file."""
        os.fdatasync(self._fd)
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class PartitionState:
    """What recovery needs to know besides the folder: was this stop the machine's, where does the log start.

    `given` is an offset that the next one cannot lie below, whatever the folder says; `written` is set whenever
    there is something to bring to the disk; `topic_id` is whose partition it is.
    """

    machine_died: bool
    log_start: int
    now_ms: int
    written: asyncio.Event = field(default_factory=asyncio.Event)
    given: int = 0
    topic_id: str = ""


class Partition:
    """An append-only log of record batches.

    `start` is the first offset readers may have, `end` the one where they are through, `next_offset` the one that the
    next record gets (greater than `end` only where a start had no room for a new segment).
    """

    def __init__(self, folder: Path, name: str, state: PartitionState) -> None:
        self.folder = folder
        self.name = name
        self.start = state.log_start
        self.producers = Producers()
        self.waiters: dict[Callable[[], None], None] = {}  # a set that keeps its order
        self.failure = ""
        self.synced_to = 0
        self._sealed: list[int] = []
        self._dirty = False
        self._written = state.written
        self._tail = TailMark(folder / "tail")
        used = any(path.stat().st_size for path in segments_in(folder))
        self._segments = self._load(state)
        self.start = self._believable(state.log_start)
        given = max(self._tail.next_offset, self._believable(state.given), self.start)
        self._report_missing(given)
        if state.topic_id:
            self._tail.name(state.topic_id)
        older = self._segments[-1].lost_end and not state.machine_died
        self._tail.recover(max(self.end, given), machine_died=state.machine_died, used=used, older=older)
        self.start = max(self.start, self._segments[0].base_offset)
        self._end_at_next_offset()
        self.synced_to = self.next_offset

    def _load(self, state: PartitionState) -> list[Segment]:
        paths = segments_in(self.folder) or [segment_path(self.folder, self._tail.next_offset)]
        bases = pairwise(paths)
        closed = [recover_closed(path, int(after.stem), self.producers, state.now_ms) for path, after in bases]
        acknowledged = 0 if state.machine_died else self._tail.next_offset
        return [*closed, recover_active(paths[-1], self.producers, state.now_ms, acknowledged)]

    def _end_at_next_offset(self) -> None:
        """Has the log end where the next record comes, so that readers pass over what was given and is not there.

        Else they would learn of it, and an archive name it, only when that record comes.
        """
        if self.end == self.next_offset:
            return
        empty = self._segments[-1] if len(self._segments) > 1 and not self._segments[-1].index.size else None
        try:
            self._roll(self.next_offset)
        except OSError as error:
            _LOG.warning("%s: no new segment (%s): readers wait for the next record", self.folder, error.strerror)
            return
        if empty is not None:
            self._segments.remove(empty)
            empty.delete()

    def _believable(self, offset: int) -> int:
        """The offset, or 0 where it lies so far beyond the records that it cannot be this partition's."""
        if 0 <= offset <= max(self.end, self._tail.next_offset) + MAX_LOST:
            return offset
        _LOG.error(
            "%s: ends at %d: the registry's offset %d cannot be its and is left out", self.folder, self.end, offset
        )
        return 0

    def _report_missing(self, given: int) -> None:
        """Names the offsets that were given and that no segment holds, at every start as other damage is."""
        ends = [self.start, *(segment.index.next_offset for segment in self._segments)]
        begins = [*(segment.base_offset for segment in self._segments), given]
        for end, begin in zip(ends, begins, strict=True):
            if end < begin:
                _LOG.warning(
                    "%s: offsets %d to %d are not there: a segment file is missing or older, or the machine died "
                    "before its disk had them; the rest is readable",
                    *(self.folder, end, begin - 1),
                )
        for before, after in pairwise(self._segments):
            if before.index.next_offset > after.base_offset:
                _LOG.error(
                    "%s: offsets %d to %d are in it and in %s: one of the two is not this log's",
                    *(before.path, after.base_offset, before.index.next_offset - 1, after.path.name),
                )

    @property
    def end(self) -> int:
        """The offset after the last record, and after those behind it that were given and are not there."""
        return self._segments[-1].index.next_offset

    @property
    def next_offset(self) -> int:
        """The offset that the next record gets."""
        return max(self._tail.next_offset, self.end)

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.index.size for segment in self._segments)

    @property
    def damaged(self) -> list[str]:
        """Segment files in which bytes are lost."""
        return [str(segment.path) for segment in self._segments if segment.index.holes]

    def append(self, records: bytes, batch: Batch, now_ms: int, segment_bytes: int) -> int:
        """Stores a checked batch, or finds that it is stored already; its base offset.

        Raises:
            Refused: its sequence does not fit, or the disk does not take it; the log is as it was.
        """
        if self.failure:
            raise Refused(ErrorCode.kafka_storage_error, self.failure)
        known = self.producers.duplicate_of(batch)
        if known is not None:
            return known
        base_offset = self.next_offset
        try:
            self._tail.reserve(base_offset + batch.records)
            active = self._segments[-1].index
            full = active.size + batch.size > segment_bytes and active.size
            if full or base_offset != active.next_offset:  # no gap inside a segment: see `scan`
                self._roll(base_offset)
            self._segments[-1].append(records, batch, base_offset, now_ms)
        except OSError as error:
            why = f"{self.folder}: {error.strerror}: a batch of {batch.size} bytes is refused until there is room"
            raise Refused(ErrorCode.kafka_storage_error, why) from error
        self._soil()
        with suppress(OSError):  # the batch is stored: refusing it now would have it stored twice
            self._tail.advance(base_offset + batch.records)
        self.producers.record(batch, base_offset, now_ms)
        for wake in tuple(self.waiters):
            wake()
        return base_offset

    def make_ready(self) -> None:
        """Have the disk know now what the next record needs of it, so that no record waits for that.

        A partition's first record reserves offsets, which is a sync of some milliseconds.
        """
        with suppress(OSError):  # the record will say so
            self._tail.reserve(self.next_offset + 1)

    def _roll(self, base_offset: int) -> None:
        after = Segment(segment_path(self.folder, base_offset), Index(base_offset), verified=True, active=True)
        folder = os.open(self.folder, os.O_RDONLY)  # a new file is on the disk when its folder is
        self._sealed += [self._segments[-1].seal(self.producers), folder]
        self._segments.append(after)
        self._soil()

    def _soil(self) -> None:
        """There is something that the disk does not have."""
        self._dirty = True
        self._written.set()

    def read(self, offset: int, max_bytes: int) -> bytes:
        """Whole batches from `offset` on; b"" when there is nothing yet.

        Offsets below the end behind which there is no record come as a batch without records.

        Raises:
            Refused: `offset` is below the start, or was never given.
        """
        if not self.start <= offset <= self.next_offset:
            why = f"{self.name}: offset {offset} is not in {self.start} to {self.next_offset}"
            raise Refused(ErrorCode.offset_out_of_range, why)
        if offset >= self.end:
            return b""
        for segment in self._segments[self._holder(offset) :]:
            data = segment.read(offset, max_bytes)
            if data:
                return data
        return absent(offset, self.end)

    def _holder(self, offset: int) -> int:
        return max(0, bisect_right(self._segments, offset, key=lambda segment: segment.base_offset) - 1)

    def blocks_since(self, timestamp_ms: int) -> Iterator[bytes]:
        """Stretches of batches, in order, that each hold a batch written at `timestamp_ms` or later."""
        for segment in self._segments[self._holder(self.start) :]:
            index = segment.index
            for entry, latest in enumerate(index.latest):
                if latest >= timestamp_ms:
                    yield segment.read(index.offsets[entry], 1)

    def delete_before(self, offset: int) -> None:
        """Moves the start up to `offset` (the caller has made that durable) and drops what lies wholly below."""
        self.start = max(self.start, offset)
        if self.start >= self.end and self._segments[-1].index.size:
            self._roll(self.next_offset)
        while len(self._segments) > 1 and self._segments[1].base_offset <= self.start:
            self._segments.pop(0).delete()

    def roll_if_begun_before(self, oldest_ms: int) -> None:
        """Closes the active segment when its first records are older than that: only whole segments can expire."""
        active = self._segments[-1]
        if active.index.size and active.begun_ms < oldest_ms:
            self._roll(self.next_offset)

    def expired_before(self, oldest_ms: int) -> int:
        """The offset up to which everything came before `oldest_ms`, in whole segments.

        By the time at which it was appended: producers' clocks, and what producers say, keep and delete nothing.
        """
        offset = self.start
        for segment in self._segments:
            if segment.index.size and segment.appended_ms >= oldest_ms:
                break
            offset = max(offset, segment.index.next_offset)
        return offset

    def unsynced(self) -> list[int]:
        """Descriptors to sync and then close, which are the caller's; none when all is on the disk."""
        if not self._dirty:
            return []
        self._dirty = False
        sealed, self._sealed = self._sealed, []
        return [*sealed, os.dup(self._segments[-1].fd)]

    def close(self) -> None:
        """Puts everything on the disk and lets go of the files."""
        for fd in self.unsynced():
            os.fdatasync(fd)
            os.close(fd)
        os.close(self._segments[-1].fd)
        self._tail.close()
