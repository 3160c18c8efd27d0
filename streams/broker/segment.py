"""One segment file: record batches end to end, named after the first offset that it may hold."""

from __future__ import annotations

import errno
import logging
import mmap
import os
from pathlib import Path
from typing import Final

from streams.broker.batch import HEADER_BYTES, Batch, header, intact, placed, poison, walk
from streams.broker.index import EVERY_BYTES, Index, Sidecar
from streams.broker.producers import Producers

_LOG: Final = logging.getLogger(__name__)
_EPOCH_AND_MAGIC: Final = b"\0\0\0\0\2"
"""Leader epoch 0 and format 2 as this broker stores them: what a batch is recognised by behind damaged bytes."""
_EPOCH_AT: Final = 12
_MAX_LOST: Final = 1 << 32
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
        if batch is not None and at_least <= batch.base_offset <= at_least + _MAX_LOST:
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
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644) if active else -1

    def append(self, records: bytes, batch: Batch, base_offset: int) -> None:
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
        self.index.add(batch, base_offset)
        self._verified_to = self.index.size
        self._ends[self.index.next_offset] = self.index.size
        if len(self._ends) > _REMEMBERED_ENDS:
            del self._ends[next(iter(self._ends))]

    def read(self, offset: int, max_bytes: int) -> bytes:
        """Whole batches from the one that holds `offset` on: at least one, else at most `max_bytes`; b"" at the end.

        Damaged bytes come as one batch that the client's checksum refuses.
        """
        hole = self.index.hole_at(offset)
        if hole is not None:
            return poison(offset, hole.following)
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
        fd = os.open(self.path, os.O_RDONLY)
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
            Sidecar(self.index, producers.snapshot()).save(self.sidecar)
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
