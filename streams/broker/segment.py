"""One segment file: record batches end to end, and what recovery makes of the file.

A file is named after the first offset that it may hold. Beside a closed segment lies its index
(`streams.broker.segment_index`); one that does not fit its segment is made again.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from crc32c import crc32c

from streams.broker.batch import CRC_FROM, HEADER_BYTES, PREFIX_BYTES, Batch, header, intact, placed, poison, walk
from streams.broker.folder import open_file
from streams.broker.producers import Producers
from streams.broker.segment_index import EVERY_BYTES, Index, Sidecar, mark_of

_LOG: Final = logging.getLogger(__name__)
_EPOCH_AND_MAGIC: Final = b"\0\0\0\0\2"
"""Leader epoch 0 and format 2 as this broker stores them: what a batch is recognised by behind damaged bytes."""
_EPOCH_AT: Final = 12
MAX_LOST: Final = 1 << 32
"""No hole in a segment can have held more records than this."""
_REMEMBERED_ENDS: Final = 128


def segment_path(folder: Path, base_offset: int) -> Path:
    """The file of the segment that begins at `base_offset`."""
    return folder / f"{base_offset:020d}.log"


def scan(path: Path, base_offset: int, producers: Producers, now_ms: int) -> Index:
    """Reads a whole segment, checks every batch and answers what is good.

    Offsets follow each other without gaps in a segment, which protects the base offset: the checksum does not cover it.
    Damaged bytes with good batches behind them become holes. Where nothing good follows, the index ends, short of the
    file's size. `producers` learns every good batch.
    """
    index = Index(base_offset)
    size = path.stat().st_size
    if size == 0:
        return index
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        while index.size < size:
            batch = _intact_batch(data, index.size)
            if batch is None or batch.base_offset != index.next_offset:
                end = _next_good(data, index.size + 1, index.next_offset)
                if end is None:
                    break
                index.skip(end, header(data, end).base_offset)
                continue
            index.add(batch, batch.base_offset)
            producers.record(batch, batch.base_offset, now_ms)
    return index


def _intact_batch(data: mmap.mmap | bytes, position: int) -> Batch | None:
    if len(data) - position < HEADER_BYTES:
        return None
    batch = header(data, position)
    return batch if intact(data, position, batch) else None


def _next_good(data: mmap.mmap, position: int, at_least: int) -> int | None:
    """Where the next intact batch begins whose offset is plausible."""
    found = data.find(_EPOCH_AND_MAGIC, position + _EPOCH_AT)
    while found >= 0:
        start = found - _EPOCH_AT
        batch = _intact_batch(data, start)
        if batch is not None and at_least <= batch.base_offset <= at_least + MAX_LOST:
            return start
        found = data.find(_EPOCH_AND_MAGIC, found + 1)
    return None


class Segment:
    """A segment file and its index. The last one of a partition is active and has the file open for writing."""

    def __init__(self, path: Path, index: Index, *, verified: bool, active: bool) -> None:
        self.path = path
        self.base_offset = int(path.stem)
        self.index = index
        self._verified_to = index.size if verified else 0
        self._ends: dict[int, int] = {}
        self.appended_ms = self.begun_ms = int(path.stat().st_mtime * 1000) if index.size else -1
        self.fd = open_file(path, os.O_RDWR | os.O_CREAT) if active else -1
        self.lost_end = False
        """Bytes were cut off at its end that are more than a write that never ended."""

    def append(self, records: bytes, batch: Batch, base_offset: int, now_ms: int) -> None:
        """Stores a batch at the end under `base_offset`, whole or not at all.

        Raises:
            OSError: the disk is full or refuses; the file is as it was.
        """
        start = self.index.size
        head = placed(base_offset, batch)
        try:
            written = os.pwritev(self.fd, [head, memoryview(records)[len(head) :]], start)
        except OSError:
            os.ftruncate(self.fd, start)
            raise
        if written != len(records):
            os.ftruncate(self.fd, start)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.appended_ms = now_ms
        if not self.index.size:
            self.begun_ms = now_ms
        self.index.add(batch, base_offset)
        self._verified_to = self.index.size
        self._ends[self.index.next_offset] = self.index.size
        if len(self._ends) > _REMEMBERED_ENDS:
            del self._ends[next(iter(self._ends))]

    def read(self, offset: int, max_bytes: int) -> bytes:
        """Whole batches from the one that holds `offset` on: at least one, else at most `max_bytes`; b"" at the end.

        Damaged bytes come as one batch that the client's checksum refuses. Where they stand first in the file, and it
        is read from before its beginning, that batch covers the offsets in between as well: no segment has them.
        """
        hole = self.index.hole_at(max(offset, self.base_offset))
        if hole is not None:
            return poison(offset, hole.following)
        if offset >= self.index.next_offset:
            return b""  # also where the index ends with a hole, behind which there is nothing to find
        if self._verified_to < self.index.size and not self._verify(offset, max_bytes):
            self._rescan()
            return self.read(offset, max_bytes)
        start = self._find(offset)
        stop = self.index.boundary(start, max_bytes)
        return self._read_bytes(start, stop) if start < stop else b""

    def _find(self, offset: int) -> int:
        start = self._ends.get(offset)
        if start is None:
            entry = self.index.position_before(offset)
            block = self._read_bytes(entry, min(entry + EVERY_BYTES + HEADER_BYTES, self.index.size))
            start = entry + walk(block, 0, offset)
        return min(start, self.index.size)

    def _read_bytes(self, start: int, stop: int) -> bytes:
        if self.fd >= 0:
            return os.pread(self.fd, stop - start, start)
        fd = open_file(self.path, os.O_RDONLY)
        try:
            return os.pread(fd, stop - start, start)
        finally:
            os.close(fd)

    def _verify(self, offset: int, max_bytes: int) -> bool:
        """Checks what a read would touch and nobody has looked at since this process started."""
        start, expected, block_end = self.index.block(offset)
        stop = self.index.boundary(block_end, max_bytes)
        if stop <= self._verified_to:
            return True
        data = self._read_bytes(start, stop)
        position = 0
        while position < stop - start:
            batch = _intact_batch(data, position)
            if batch is None or batch.base_offset != expected:
                return False
            position += batch.size
            expected = batch.next_offset
        if start <= self._verified_to:
            self._verified_to = stop
        return True

    def _rescan(self) -> None:
        following = self.index.next_offset
        self.index = scan(self.path, self.base_offset, Producers(), 0)
        self.end_at(self.path.stat().st_size, following)
        self._verified_to = self.index.size
        self.report_damage()

    def end_at(self, size: int, following: int) -> None:
        """Makes what a closed segment has lost at its end a hole: it should have `size` bytes, up to `following`."""
        if self.index.size < size or self.index.next_offset < following:
            self.index.skip(max(size, self.index.size), following)

    def report_damage(self) -> None:
        """Names the damage where the operator reads it."""
        for hole in self.index.holes:
            where = f"{self.path}: bytes {hole.start} to {hole.end} are damaged"
            _LOG.error("%s: offsets %d to %d are lost, the rest is readable", where, hole.first, hole.following - 1)

    def seal(self, producers: Producers) -> int:
        """Closes the segment for writing; the caller syncs and closes the descriptor that is answered.

        A sidecar that cannot be written is made at the next start.
        """
        try:
            Sidecar(self.index, producers.snapshot(), mark_of(self.path, self.index)).save(self.sidecar)
        except OSError as error:
            _LOG.warning("%s: not written (%s): the next start reads the whole segment", self.sidecar, error.strerror)
        fd, self.fd = self.fd, -1
        self._ends.clear()
        return fd

    @property
    def sidecar(self) -> Path:
        """The index file beside the segment."""
        return self.path.with_suffix(".index")

    def delete(self) -> None:
        """Removes the files."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.path.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)


def recover_closed(path: Path, next_base: int, producers: Producers, now_ms: int) -> Segment:
    """A segment that others follow, from its sidecar or, where that does not fit, read whole; `producers` learns of it.

    What its end has lost is a hole, at most up to `next_base`, where the following segment begins. A sidecar that tells
    of damage is not believed: the segment may have been restored from a good copy.
    """
    size = path.stat().st_size
    sidecar = Sidecar.load(path.with_suffix(".index"))
    if sidecar is not None and _fits(sidecar, path, size, next_base):
        with suppress(ValueError):  # of somebody else's making: read what the segment says
            producers.restore(sidecar.producers)
            return Segment(path, sidecar.index, verified=False, active=False)
    index = scan(path, int(path.stem), producers, now_ms)
    segment = Segment(path, index, verified=True, active=False)
    if sidecar is not None and index.next_offset < next_base:
        segment.end_at(max(size, sidecar.index.size), min(sidecar.index.next_offset, next_base))
    elif index.size < size:
        segment.end_at(size, next_base)
    segment.report_damage()
    segment.seal(producers)
    return segment


def _fits(sidecar: Sidecar, path: Path, size: int, next_base: int) -> bool:
    index = sidecar.index
    if index.size != size or index.next_offset > next_base or index.holes:
        return False
    return sidecar.mark is None or sidecar.mark == mark_of(path, index)


def recover_active(path: Path, producers: Producers, now_ms: int, acknowledged: int = 0) -> Segment:
    """The newest segment, read whole and open for writing. An unfinished batch at its end is cut off.

    A batch at its end that was written whole, and lies below the offset `acknowledged`, is damaged, not unfinished: it
    stays where it is, as a hole. What is cut off below `acknowledged` is kept beside the segment. So is what lies
    beyond it and is not the beginning of one batch: that was acknowledged, and who says otherwise is older.
    """
    if not path.exists():
        os.close(open_file(path, os.O_WRONLY | os.O_CREAT))
    index = scan(path, int(path.stem), producers, now_ms)
    size = path.stat().st_size
    appended_ms = int(path.stat().st_mtime * 1000)
    lost_end = False
    if index.size < size and index.next_offset < acknowledged and _written_whole(path, index.size, size):
        index.skip(size, acknowledged)
    elif index.size < size:
        beyond = index.next_offset - acknowledged
        lost_end = beyond > 0 or (beyond == 0 and not _unfinished(path, index, size))
        _cut_off(path, index, size, keep=lost_end or index.next_offset < acknowledged)
    segment = Segment(path, index, verified=True, active=True)
    segment.lost_end = lost_end
    segment.appended_ms = segment.begun_ms = appended_ms
    segment.report_damage()
    return segment


def _written_whole(path: Path, position: int, size: int) -> bool:
    """Whether a batch of a length that fits stands at `position`, however damaged it is inside."""
    if size - position < HEADER_BYTES:
        return False
    with path.open("rb") as file:
        file.seek(position)
        batch = header(file.read(HEADER_BYTES))
    return batch.length >= HEADER_BYTES - PREFIX_BYTES and position + batch.size <= size


def _unfinished(path: Path, index: Index, size: int) -> bool:
    """Whether the bytes behind the last good batch are the beginning of one more, as a write that broke off leaves.

    A process that dies in a write leaves the first part of it. What has all of a batch's bytes, or begins as no batch
    of this place does, was written whole once.
    """
    with path.open("rb") as file:
        file.seek(index.size)
        data = file.read(size - index.size)
    if any(data[at : at + len(part)] != part[: max(0, len(data) - at)] for at, part in _beginning(index.next_offset)):
        return False
    if len(data) < HEADER_BYTES:
        return True
    batch = header(data)
    return batch.size > len(data) and crc32c(data[CRC_FROM:]) != batch.crc


def _beginning(base_offset: int) -> tuple[tuple[int, bytes], ...]:
    """What every batch at an offset begins with, and where that stands."""
    return (0, base_offset.to_bytes(8, "big")), (_EPOCH_AT, _EPOCH_AND_MAGIC)


def _cut_off(path: Path, index: Index, size: int, *, keep: bool) -> None:
    where = ""
    if keep:
        kept = path.with_name(f"{path.stem}.{index.size}.cut")
        with path.open("rb") as file:
            file.seek(index.size)
            kept.unlink(missing_ok=True)
            with kept.open("xb") as copy:
                shutil.copyfileobj(file, copy)
                os.fsync(copy.fileno())
        where = f", from offset {index.next_offset} on; they are kept in {kept.name}"
    _LOG.warning("%s: %d unfinished bytes at the end cut off%s", path, size - index.size, where)
    os.truncate(path, index.size)
