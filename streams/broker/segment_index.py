"""Where the batches of a segment lie: the sparse index of it, and the sidecar file that keeps that.

Beside a closed segment lies a sidecar with its index, the producers' state and the damage in it, so that start-up reads
the active segment alone. It can always be made again from the segment; one that does not fit its own checksum is none.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from esper.errors import LogUnavailable
from streams.broker.batch import HEADER_BYTES, Batch
from streams.broker.folder import open_file

EVERY_BYTES: Final = 16 * 1024
"""One entry per so many bytes: 4,096 entries (96 KiB) for a full segment, and at most that much to walk in memory."""
_MAGIC: Final = b"ESPIDX02"
_WITHOUT_MARK: Final = b"ESPIDX01"
_HEADER: Final = struct.Struct(">8sqqqiiiII")
_MOST_BYTES: Final = 64 * 1024 * 1024
"""Of a sidecar: more than the greatest segment and all producers can make."""
_MARK: Final = struct.Struct(">I")
_HEADER_CRC_AT: Final = _HEADER.size - 4


class Hole(NamedTuple):
    """Damaged bytes `start` to `end`, where offsets `first` up to but without `following` should have been."""

    start: int
    end: int
    first: int
    following: int


@dataclass(slots=True)
class Index:
    """Sparse positions of a segment of `size` bytes; entry i is the batch at `positions[i]`, first offset `offsets[i]`.

    `latest[i]` is the greatest timestamp (ms) of the batches from entry i to the next entry.
    """

    next_offset: int
    size: int = 0
    max_timestamp: int = -1
    offsets: array[int] = field(default_factory=lambda: array("q"))
    positions: array[int] = field(default_factory=lambda: array("q"))
    latest: array[int] = field(default_factory=lambda: array("q"))
    holes: list[Hole] = field(default_factory=list)

    def add(self, batch: Batch, base_offset: int) -> None:
        """Takes up a batch that stands at the present end."""
        after_hole = bool(self.holes) and self.holes[-1].end == self.size  # nobody can walk across a hole
        if not self.positions or after_hole or self.size - self.positions[-1] >= EVERY_BYTES:
            self.offsets.append(base_offset)
            self.positions.append(self.size)
            self.latest.append(batch.max_timestamp)
        elif batch.max_timestamp > self.latest[-1]:
            self.latest[-1] = batch.max_timestamp
        self.max_timestamp = max(self.max_timestamp, batch.max_timestamp)
        self.size += batch.size
        self.next_offset = base_offset + batch.last_offset_delta + 1

    def skip(self, end: int, following: int) -> None:
        """Takes up damaged bytes from the present end to `end`, before offset `following`."""
        self.holes.append(Hole(self.size, end, self.next_offset, following))
        self.size = end
        self.next_offset = following

    def hole_at(self, offset: int) -> Hole | None:
        """The damage that `offset` lies in, if any."""
        return next((hole for hole in self.holes if hole.first <= offset < hole.following), None)

    def position_before(self, offset: int) -> int:
        """A position from which the batch with `offset` is reached by walking at most `EVERY_BYTES` and a batch."""
        entry = bisect_right(self.offsets, offset) - 1
        return self.positions[entry] if entry >= 0 else 0

    def block(self, offset: int) -> tuple[int, int, int]:
        """The stretch between two entries that holds `offset`: its start, the first offset in it, its end."""
        entry = max(0, bisect_right(self.offsets, offset) - 1)
        end = self.positions[entry + 1] if entry + 1 < len(self.positions) else self.size
        return self.positions[entry], self.offsets[entry], end

    def boundary(self, start: int, max_bytes: int) -> int:
        """Where to stop reading from `start`: the last known batch end within `max_bytes`, or the first one after."""
        limit = min([hole.start for hole in self.holes if hole.start > start], default=self.size)
        if start + max_bytes >= limit:
            return limit
        entry = bisect_right(self.positions, start + max_bytes) - 1
        if self.positions[entry] <= start:
            entry += 1
        return min(self.positions[entry], limit) if entry < len(self.positions) else limit


@dataclass(frozen=True, slots=True)
class Sidecar:
    """An index and the producers' state at the segment's end, as they stand in the file beside it.

    `mark` is that of the segment (`mark_of`), so that one of another segment, or of the same name in another life of
    the topic, is not taken for its own; None in files of an older version.
    """

    index: Index
    producers: bytes
    mark: int | None

    def save(self, path: Path) -> None:
        """Writes it in one piece: a crash leaves the old file or none.

        Raises:
            OSError: the disk is full or refuses.
        """
        body = self._body()
        index = self.index
        numbers = (len(index.offsets), len(index.holes), len(self.producers))
        head = _HEADER.pack(_MAGIC, index.size, index.next_offset, index.max_timestamp, *numbers, zlib.crc32(body), 0)
        head = head[:_HEADER_CRC_AT] + struct.pack(">I", zlib.crc32(head[:_HEADER_CRC_AT]))
        draft = path.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        with draft.open("xb") as file:
            file.write(head + body)
            file.flush()
            os.fdatasync(file.fileno())
        draft.replace(path)

    def _body(self) -> bytes:
        numbers = array("q")
        for part in (self.index.offsets, self.index.positions, self.index.latest):
            numbers.extend(part)
        for hole in self.index.holes:
            numbers.extend(hole)
        if sys.byteorder == "little":
            numbers.byteswap()
        return numbers.tobytes() + self.producers + _MARK.pack(self.mark or 0)

    @classmethod
    def load(cls, path: Path) -> Sidecar | None:
        """The sidecar at `path`, or None when there is none or it is damaged itself."""
        try:
            with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except (OSError, LogUnavailable):
            return None
        if not _HEADER.size <= len(data) <= _MOST_BYTES:
            return None
        magic, size, next_offset, latest, entries, holes, length, body_crc, crc = _HEADER.unpack_from(data)
        body = data[_HEADER.size :]
        if magic not in {_MAGIC, _WITHOUT_MARK} or crc != zlib.crc32(data[:_HEADER_CRC_AT]):
            return None
        if min(entries, holes, length) < 0 or zlib.crc32(body) != body_crc:
            return None
        mark = _MARK.unpack(body[-_MARK.size :])[0] if magic == _MAGIC and len(body) >= _MARK.size else None
        body = body if mark is None else body[: -_MARK.size]
        if len(body) != 8 * (3 * entries + 4 * holes) + length:
            return None
        index = Index(next_offset, size, latest)
        numbers = array("q", body[: len(body) - length])
        if sys.byteorder == "little":
            numbers.byteswap()
        index.offsets, index.positions, index.latest = (numbers[i * entries : (i + 1) * entries] for i in range(3))
        index.holes = [Hole(*numbers[i : i + 4]) for i in range(3 * entries, len(numbers), 4)]
        return cls(index, body[len(body) - length :], mark) if _plausible(index) else None


def _plausible(index: Index) -> bool:
    """Whether reading by this index stays inside the segment, whoever made it."""
    if not index.size or index.next_offset < 0:
        return False
    stretches = [number for hole in index.holes for number in (hole.start, hole.end)]
    rising = all(a < b for numbers in (index.offsets, index.positions) for a, b in pairwise(numbers))
    inside = all(0 <= number <= index.size for number in (*stretches, *index.positions[-1:], *index.positions[:1]))
    return rising and inside and stretches == sorted(stretches) and bool(index.positions or index.holes)


def mark_of(path: Path, index: Index) -> int:
    """What tells a segment from another of the same size: a checksum over the headers of its first and last entry."""
    with path.open("rb") as file:
        heads = b""
        for position in (*index.positions[:1], *index.positions[-1:]):
            file.seek(position)
            heads += file.read(HEADER_BYTES)
    return zlib.crc32(heads)
