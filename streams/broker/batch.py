"""Record batches (format version 2) as opaque bytes: the 61-byte header is all that the broker looks at.

Layout: Kafka documentation, "Message format / Record batch". All numbers are big-endian.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from crc32c import crc32c
from kio.schema.errors import ErrorCode
from typing_extensions import Buffer

from streams.broker.protocol import Refused

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_COVERED: Final = struct.Struct(">hiqqqhii")
"""The part of the header that the checksum covers."""
HEADER_BYTES: Final = _HEADER.size
PREFIX_BYTES: Final = 12
"""Base offset and length stand before the bytes that the length counts."""
CRC_FROM: Final = 21
"""The checksum covers everything after itself, so offset and leader epoch may be set without touching it."""
MAGIC: Final = 2
NO_PRODUCER: Final = -1
_WALK: Final = struct.Struct(">qi11xi")
_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20
_UNKNOWN_CODEC: Final = 0x07
"""All three bits of the codec; the greatest number of them is none."""
_APPEND_TIME: Final = 0x08
"""The batch's `max_timestamp` is the time at which the log took it, and every record's."""


class Batch(NamedTuple):
    """The header of one batch. `length` counts the bytes after the first twelve; timestamps are milliseconds."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: int

    @property
    def size(self) -> int:
        """Bytes of the whole batch."""
        return PREFIX_BYTES + self.length

    @property
    def next_offset(self) -> int:
        """The offset after the batch's last record."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def last_sequence(self) -> int:
        """Sequence of the last record; sequences wrap to 0 after 2^31 - 1."""
        return (self.base_sequence + self.last_offset_delta) & 0x7FFFFFFF


def header(data: Buffer, position: int = 0) -> Batch:
    """The batch header at `position`; there must be 61 bytes."""
    return Batch._make(_HEADER.unpack_from(data, position))


def intact(data: Buffer, position: int, batch: Batch) -> bool:
    """Whether the batch is whole and its checksum holds."""
    end = position + batch.size
    with memoryview(data) as view:
        if batch.magic != MAGIC or batch.length < HEADER_BYTES - PREFIX_BYTES or end > len(view):
            return False
        with view[position + CRC_FROM : end] as covered:
            return crc32c(covered) == batch.crc


def walk(data: bytes, position: int, offset: int) -> int:
    """The position in `data` of the batch that holds `offset` or, if none does, of the first after it.

    `position` must be where a batch begins. Stops at bytes that are no batch, and at the end of `data`.
    """
    limit = len(data) - _WALK.size
    while position <= limit:
        base, length, delta = _WALK.unpack_from(data, position)
        if base + delta >= offset or length < HEADER_BYTES - PREFIX_BYTES:
            break
        position += PREFIX_BYTES + length
    return position


def placed(base_offset: int, batch: Batch) -> bytes:
    """The header of the batch as it is stored: at `base_offset`, leader epoch 0."""
    return _HEADER.pack(base_offset, batch.length, 0, *batch[3:])


def stamped(records: bytes, batch: Batch, now_ms: int) -> Batch:
    """The header of a checked batch of `records` with the time at which the log takes it, as Kafka's LogAppendTime.

    The records themselves stay what they are, so what was signed stays signed.
    """
    place, length, _, _, _, attributes, delta, begun_ms, _, producer, epoch, sequence, count = batch
    attributes |= _APPEND_TIME
    head = _COVERED.pack(attributes, delta, begun_ms, now_ms, producer, epoch, sequence, count)
    with memoryview(records) as view:
        crc = crc32c(view[HEADER_BYTES:], crc32c(head))
    numbers = (place, length, 0, MAGIC, crc, attributes, delta, begun_ms, now_ms, producer, epoch, sequence, count)
    return Batch._make(numbers)


def compressed(batch: Batch) -> bool:
    """Whether its records are packed."""
    return bool(batch.attributes & _UNKNOWN_CODEC)


def says_append_time(batch: Batch) -> bool:
    """Whether the header claims to have been stamped by a log."""
    return bool(batch.attributes & _APPEND_TIME)


def checked(records: bytes | None, max_bytes: int) -> Batch:
    """The header of a produced batch that may be stored.

    Raises:
        Refused: no batch of format 2, more than one, too large, torn, or with features that this broker has not.
    """
    if not records or len(records) < HEADER_BYTES:
        raise Refused(ErrorCode.corrupt_message, f"a record batch of {len(records or b'')} bytes")
    batch = header(records)
    if batch.magic != MAGIC:
        raise Refused(ErrorCode.unsupported_for_message_format, f"message format {batch.magic}: this broker takes 2")
    if len(records) > max_bytes:
        raise Refused(ErrorCode.message_too_large, f"a batch of {len(records)} bytes: the topic takes {max_bytes}")
    if batch.size < len(records):
        raise Refused(ErrorCode.invalid_record, "more than one batch for one partition in one request")
    if not intact(records, 0, batch):
        raise Refused(ErrorCode.corrupt_message, "a batch whose checksum or length is wrong")
    if batch.attributes & (_TRANSACTIONAL | _CONTROL):
        raise Refused(ErrorCode.invalid_record, "a transactional batch: this broker has no transactions")
    if batch.records < 1 or batch.last_offset_delta != batch.records - 1:
        raise Refused(ErrorCode.invalid_record, f"{batch.records} records numbered 0 to {batch.last_offset_delta}")
    return batch


def absent(first: int, following: int) -> bytes:
    """A batch without records at offsets `first` to `following - 1`: every client passes over it in silence."""
    delta = min(following - first - 1, 0x7FFFFFFF)
    numbers = (0, delta, 0, 0, NO_PRODUCER, -1, -1, 0)
    crc = crc32c(_COVERED.pack(*numbers))
    return _HEADER.pack(first, HEADER_BYTES - PREFIX_BYTES, 0, MAGIC, crc, *numbers)


def poison(first: int, following: int) -> bytes:
    """A batch that stands for damaged bytes at offsets `first` to `following - 1`: every client refuses it aloud.

    Its checksum is wrong and its codec does not exist. An error code instead would be logged and asked again for ever
    by aiokafka; with this, its consumer raises CorruptRecordException, and can seek past.
    """
    delta = max(0, min(following - first - 1, 0x7FFFFFFF))
    length = HEADER_BYTES - PREFIX_BYTES
    rest = (_UNKNOWN_CODEC, delta, 0, 0, NO_PRODUCER, -1, -1, delta + 1)
    right = crc32c(_HEADER.pack(first, length, 0, MAGIC, 0, *rest)[CRC_FROM:])
    return _HEADER.pack(first, length, 0, MAGIC, right ^ 0xFFFFFFFF, *rest)
