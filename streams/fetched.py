"""What a fetch answered, batch by batch: whole batches, and by name the stretches that cannot be read.

A batch is unreadable where its length, checksum, codec or records are wrong, or where it would unpack to more than a
batch may. A reader that raised there would get the same bytes again and stand still for ever, so it steps over: by the
batch's header where that can be believed, else to the next batch in the answer that is whole, else by one offset, which
the log then looks for anew.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pyarrow as pa
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.util import decode_varint
from crc32c import crc32c

from projections.records import Unreadable

MAX_BATCH_RECORDS: Final = 32_768
"""More records in a batch are not read: each costs some hundred bytes of memory, however small it is. A batch of 1 MiB,
which is all that a topic takes, holds some 7,000 signed events."""
MAX_UNPACKED_BYTES: Final = 4 * 2**20
"""What a packed batch may come to. Producers pack up to 1 MiB of records, and signatures do not pack."""
MAX_LEAP: Final = 2**32
"""No damaged stretch held more records than this."""

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_PREFIX: Final = 12
_MAGIC_AT: Final = 16
_MAGIC: Final = b"\x02"
_CRC_FROM: Final = 21
"""What follows the checksum is covered by it. Computed by the processor's own instruction: aiokafka takes twelve times
as long."""
_CODEC_AT: Final = 22  # the lower byte of the attributes
_CODEC_MASK: Final = 0x07
_CONTROL: Final = 0x20
_APPEND_TIME: Final = 0x08
_CODECS: Final = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = 16


class Whole:
    """A batch whose checksum holds. `records` opens it; `size` is its bytes, or what they unpack to once it is open."""

    __slots__ = ("_batch", "_data", "_head", "_place", "first", "is_control_batch", "next_offset", "size")

    def __init__(self, place: tuple[str, int], data: memoryview, head: tuple[int, ...], batch: Any) -> None:
        self._place = place
        self._data = data
        self._head = head
        self._batch = batch
        self.first = head[0]
        self.next_offset = head[0] + head[6] + 1
        self.size = len(data)
        self.is_control_batch = bool(head[5] & _CONTROL)

    @property
    def stamp_ms(self) -> int | None:
        """The log's own time of all of its records; None where each has its producer's."""
        return self._head[8] if self._head[5] & _APPEND_TIME else None

    def records(self) -> tuple[list[Any], list[Unreadable]]:
        """Its records in their order, as aiokafka makes them, and what of it cannot be read."""
        count = self._head[12]
        if not 0 <= count <= MAX_BATCH_RECORDS:
            why = f"a batch of {count} records, and {MAX_BATCH_RECORDS} are read of one"
            return [], [self._hole(self.first, self.next_offset, why)]
        batch, opened = self._batch, self._data
        if self._head[5] & _CODEC_MASK:
            try:
                opened = _unpacked(self._data)
            except Exception as error:  # noqa: BLE001 - every codec has errors of its own
                why = f"its records cannot be unpacked ({_named(error)})"
                return [], [self._hole(self.first, self.next_offset, why)]
            self.size = len(opened)
            batch = DefaultRecordBatch(opened)
        try:
            found = list(batch)
        except Exception as error:  # noqa: BLE001 - not all are CorruptRecordException: a header's name may be no text
            return self._in_place(_one_by_one(bytearray(opened), count), _named(error))
        if [record.offset for record in found] == list(range(self.first, self.next_offset)):
            return found, []
        return self._in_place(found, "its record says that it has another offset", gaps=False)

    def _in_place(self, records: Iterable[Any], why: str, *, gaps: bool = True) -> tuple[list[Any], list[Unreadable]]:
        """Those records whose offsets count up within the batch's, and the holes between them.

        With `gaps=False` a hole that no record fills is none: the log has cleared it.
        """
        found: list[Any] = []
        holes: list[Unreadable] = []
        expected = self.first
        for record in records:
            if not expected <= record.offset < self.next_offset:
                gaps = True
                continue
            if record.offset > expected:
                holes.append(self._hole(expected, record.offset, why))
            found.append(record)
            expected = record.offset + 1
        if expected < self.next_offset:
            holes.append(self._hole(expected, self.next_offset, why))
        return found, holes if gaps else []

    def _hole(self, first: int, following: int, why: str) -> Unreadable:
        return Unreadable(*self._place, first, following, why)


def parts(data: Any, place: tuple[str, int], position: int, end: int) -> Iterator[Whole | Unreadable]:
    """The batches of a fetch's answer from offset `position` on, and what of it cannot be read, in their order.

    `end` is where the log ended, or -1: a broker looks where that is before it reads what it gives, so a batch that
    begins at the position may end behind it. A place behind the log's end that a batch says it has is believed of no
    other. Bytes at the end that the answer's size cut off come with the next fetch.
    """
    view, at, length = memoryview(data), 0, len(data)
    limit = end if end >= 0 else position + MAX_LEAP
    while at < length:
        head = _HEADER.unpack_from(view, at) if length - at >= _HEADER.size else None
        size = _PREFIX + head[1] if head is not None else 0
        if head is not None and head[3] == _MAGIC[0] and _HEADER.size <= size <= length - at:
            whole = view[at : at + size]
            batch = DefaultRecordBatch(whole)
            first, last, most = head[0], head[0] + head[6], position + MAX_BATCH_RECORDS
            if crc32c(whole[_CRC_FROM:]) != head[4]:
                why = "its checksum is wrong"
            elif not (first <= last and position <= last < (max(limit, most) if first <= position else limit)):
                why = f"its offsets {first} to {last} are not where the log is read"
            else:
                yield Whole(place, whole, head, batch)
                at, position = at + size, last + 1
                continue
        elif at and (head is None or (head[3] == _MAGIC[0] and size >= _HEADER.size)):
            return  # cut off by the answer's size
        elif head is None or (head[3] == _MAGIC[0] and size >= _HEADER.size):
            why = f"a batch of {size} bytes, of which the log gives {length - at}"
        else:
            why = f"a batch of {size} bytes in format {head[3]}"
        at, following = _behind(view, at, head, position, limit)
        yield Unreadable(*place, position, following, why)
        position = following


def _behind(view: memoryview, at: int, head: tuple[int, ...] | None, position: int, limit: int) -> tuple[int, int]:
    """Where to go on behind a damaged batch: the place in the answer, and the offset."""
    claimed = head[0] + head[6] + 1 if head is not None else -1
    believable = (
        head is not None
        and head[3] == _MAGIC[0]
        and head[0] <= position < claimed <= limit
        and 0 <= head[12] <= head[6] + 1
    )
    found = _next_whole(view, at + 1, position, limit)
    if found is not None:
        return found
    return len(view), claimed if believable else position + 1


def _next_whole(view: memoryview, start: int, position: int, limit: int) -> tuple[int, int] | None:
    """The next batch in the answer that is whole and behind `position`: its place, and its first offset."""
    data = bytes(view[start:])
    found = data.find(_MAGIC, _MAGIC_AT)
    while found >= 0:
        at = start + found - _MAGIC_AT
        head = _head(view, at)
        if head is not None and position < head[0] <= limit and head[6] >= 0:
            size = _PREFIX + head[1]
            if _HEADER.size <= size <= len(view) - at and _sound(view[at : at + size]):
                return at, head[0]
        found = data.find(_MAGIC, found + 1)
    return None


def _head(view: memoryview, at: int) -> tuple[int, ...] | None:
    return _HEADER.unpack_from(view, at) if len(view) - at >= _HEADER.size else None


def _sound(batch: memoryview) -> bool:
    head = _head(batch, 0)
    return head is not None and crc32c(batch[_CRC_FROM:]) == head[4]


def _unpacked(batch: memoryview) -> Any:
    """The batch with its records as they are; raises for those that cannot be unpacked or come to too much."""
    codec = batch[_CODEC_AT] & _CODEC_MASK
    if codec == 0:
        return batch
    content = unpacked(codec, bytes(batch[_HEADER.size :]))
    head = bytearray(batch[: _HEADER.size])
    head[_CODEC_AT] &= ~_CODEC_MASK & 0xFF
    return bytes(head) + content


def unpacked(codec: int, data: bytes, most: int = MAX_UNPACKED_BYTES) -> bytes:
    """What was packed by one of Kafka's codecs, never making more of it than `most` bytes.

    Raises ValueError where it is more or of no known codec, and what the codec raises for bytes that are not its own.
    """
    name = _CODECS.get(codec)
    if name is None:
        raise ValueError(f"codec {codec} does not exist")
    if name == "snappy":
        return _unsnapped(data, most)
    if name == "gzip":
        unzip = zlib.decompressobj(wbits=31)
        content = unzip.decompress(data, most + 1)
        if len(content) <= most and not unzip.eof:
            raise ValueError("gzip ends too early")
    else:
        with pa.CompressedInputStream(pa.BufferReader(data), name) as stream:
            content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most} bytes")
    return content


def _unsnapped(data: bytes, most: int) -> bytes:
    """Snappy as Java's clients write it, in blocks, or raw."""
    if not data.startswith(_XERIAL):
        return _unsnapped_block(data, most)
    blocks, at = [], _XERIAL_HEADER
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        blocks.append(_unsnapped_block(data[at + 4 : at + 4 + size], most))
        most -= len(blocks[-1])
        at += 4 + size
    return b"".join(blocks)


def _unsnapped_block(block: bytes, most: int) -> bytes:
    size, _ = _unsigned(block)
    if size > most:
        raise ValueError(f"{size} bytes, which are more than the {most} that are left")
    return bytes(pa.decompress(block, size, codec="snappy", asbytes=True))


def _unsigned(data: bytes) -> tuple[int, int]:
    value = shift = 0
    for place, byte in enumerate(data[:5]):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise ValueError("no length")


def _one_by_one(opened: bytearray, count: int) -> Iterator[Any]:
    """The records of a batch that can be read by themselves."""
    at = _HEADER.size
    for _ in range(count):
        try:
            length, begin = decode_varint(opened, at)
        except Exception:  # noqa: BLE001 - there is no end in sight
            return
        end = begin + length
        if length < 0 or end > len(opened):
            return
        head = opened[: _HEADER.size]
        head[-4:] = (1).to_bytes(4, "big")
        with contextlib.suppress(Exception):
            yield from list(DefaultRecordBatch(bytes(head + opened[at:end])))
        at = end


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
