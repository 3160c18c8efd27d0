"""Answers of the log that are damaged: what is sound is read, what is not is named, and nothing is asked for twice."""

from __future__ import annotations

import random
import struct

import pyarrow as pa
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition
from crc32c import crc32c

from projections.records import Batch, Unreadable
from streams.broker.batch import poison
from streams.fetched import MAX_BATCH_RECORDS, MAX_UNPACKED_BYTES, parts
from streams.fetching import CORRUPT_ATTEMPTS, Fetched, Reading

PLACE = TopicPartition("esper.runs", 1)
NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
END = 1_000
"""Where the log ends."""


def on_the_wire(first: int, count: int, codec: int = NONE, value: bytes = b"v%d") -> bytearray:
    """A producer's batch, its offsets as the broker would set them."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 2**24)
    for i in range(count):
        text = None if i == 1 else value % (first + i) if b"%d" in value else value
        builder.append(i, 1_000 + i, b"k", text, [("esper-key", b"0123abcd"), ("é", None)])
    built = bytearray(builder.build())
    built[:8] = first.to_bytes(8, "big")
    return packed(built, codec) if codec else built


def packed(batch: bytearray, codec: int) -> bytearray:
    """The batch as a producer that packs its records sends it; aiokafka needs another library for that."""
    content = pa.compress(bytes(batch[61:]), ("none", "gzip", "snappy", "lz4", "zstd")[codec], asbytes=True)
    head = batch[:61]
    head[8:12] = struct.pack(">i", 49 + len(content))
    head[22] |= codec
    return bytearray(sealed(head + content))


def sealed(batch: bytes | bytearray) -> bytes:
    """With a checksum that holds: damage, or malice, from before it was made."""
    return bytes(batch[:17]) + crc32c(bytes(batch[21:])).to_bytes(4, "big") + bytes(batch[21:])


def read(data: bytes, position: int = 0, end: int = END) -> tuple[list[int], list[Unreadable], int]:
    """The offsets that are read, what is not, and from where reading goes on; by records and by batches alike."""
    told: list[Unreadable] = []
    reading = Reading(unreadable=told.append)
    single = Fetched(PLACE, parts(data, PLACE, position, end), position, reading)
    offsets = [record.offset for record in single]
    again: list[Unreadable] = []
    bulk = Fetched(PLACE, parts(data, PLACE, position, end), position, Reading(batches=True, unreadable=again.append))
    items = list(bulk)
    assert [offset for each in items if isinstance(each, Batch) for offset in each.offsets] == offsets
    assert [each for each in items if isinstance(each, Unreadable)] == again == told
    assert bulk.next_fetch_offset == single.next_fetch_offset
    return offsets, told, single.next_fetch_offset


def stretches(unreadable: list[Unreadable]) -> list[tuple[int, int]]:
    return [(each.first, each.next) for each in unreadable]


@pytest.mark.parametrize("position", [0, 3])
@pytest.mark.parametrize("codec", [NONE, GZIP, SNAPPY, LZ4, ZSTD])
def test_sound_batches_are_read_from_the_position_on(codec, position):
    """Also where the position lies within a batch, which the log only gives whole."""
    data = bytes(on_the_wire(0, 5, codec) + on_the_wire(5, 4, codec))

    assert read(data, position) == ([*range(position, 9)], [], 9)


@pytest.mark.parametrize("end", [3, 5, 7])
def test_what_was_written_while_the_broker_answered_is_read(end):
    """Apache Kafka looks where its log ends first and reads then: what came between is in the answer."""
    assert read(bytes(on_the_wire(3, 2) + on_the_wire(5, 4)), 3, end) == ([*range(3, 9)], [], 9)


def test_what_the_size_of_the_answer_cut_off_comes_with_the_next_one():
    whole, next_one = on_the_wire(0, 5), on_the_wire(5, 4)

    for left in (10, 61, len(next_one) - 1):
        assert read(bytes(whole + next_one[:left])) == ([*range(5)], [], 5)


@pytest.mark.parametrize("codec", [NONE, GZIP, SNAPPY, LZ4, ZSTD])
@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_anywhere_costs_its_batch_and_no_other(seed, codec):
    """Every field of the header among them, and those that the checksum does not cover."""
    rng = random.Random(seed)
    three = [on_the_wire(0, 5, codec), on_the_wire(5, 4, codec), on_the_wire(9, 3, codec)]
    hit = rng.randrange(3)
    place = rng.randrange(61) if seed % 2 else rng.randrange(len(three[hit]))
    three[hit][place] ^= 1 << rng.randrange(8)
    position, offsets, told = 0, [], []
    for _ in range(20):
        if position >= 12:
            break
        # As a broker does that finds batches by their places: what it gives begins with the batch of the position.
        held = next(i for i, end in enumerate((5, 9, 12)) if position < end)
        more, holes, position = read(b"".join(map(bytes, three[held:])), position, 12)
        offsets += more
        told += holes

    lost = [offset for each in told for offset in range(each.first, each.next)]
    assert position == 12
    assert sorted(offsets + lost) == [*range(12)]
    assert set(offsets) >= {*range(12)} - {*range((0, 5, 9)[hit], (5, 9, 12)[hit])}
    assert all(each.why for each in told)


def test_the_broker_s_mark_for_a_hole_is_passed_at_once():
    assert read(poison(4, 700), 4) == ([], [Unreadable(*PLACE, 4, 700, "its checksum is wrong")], 700)


def test_a_header_that_would_leave_the_log_is_not_believed():
    """The checksum is wrong, so its offsets may be: where nothing whole follows, the next offset is asked for."""
    assert stretches(read(poison(4, 700), 4, end=100)[1]) == [(4, 5)]


@pytest.mark.parametrize("length", [-(2**31), -12, 0, 36, 2**31 - 1])
def test_an_impossible_length_is_passed_by_the_next_batch_that_is_whole(length):
    damaged = on_the_wire(0, 5)
    damaged[8:12] = struct.pack(">i", length)

    offsets, told, position = read(bytes(damaged + on_the_wire(5, 4)))

    assert (offsets, stretches(told), position) == ([*range(5, 9)], [(0, 5)], 9)


def test_one_record_that_is_none_costs_itself_alone():
    """Its checksum holds, so the producer wrote it so: a header whose name is no text."""
    batch = on_the_wire(0, 3)
    places = [at for at in range(len(batch)) if batch[at : at + 2] == "é".encode()]
    batch[places[1] : places[1] + 2] = b"\xff\xfe"

    offsets, told, position = read(sealed(batch))

    assert (offsets, stretches(told), position) == ([0, 2], [(1, 2)], 3)


def test_offsets_that_a_producer_made_up_hide_nothing():
    """A record that says to be at offset 2^30 would have all that follows pass for archived already."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 2**20)
    for offset in (0, 2**30, 2):
        builder.append(offset, 1_000, b"k", b"v", [])
    batch = bytearray(builder.build())
    batch[23:27] = struct.pack(">i", 2)  # the last record's offset
    batch[57:61] = struct.pack(">i", 3)

    offsets, told, position = read(sealed(batch) + bytes(on_the_wire(3, 2)))

    assert (offsets, stretches(told), position) == ([0, 2, 3, 4], [(1, 2)], 5)


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_a_batch_that_unpacks_to_too_much_is_named_and_not_unpacked(codec):
    bomb = on_the_wire(0, 1, codec, value=bytes(2 * MAX_UNPACKED_BYTES))
    assert len(bomb) < MAX_UNPACKED_BYTES / 8

    offsets, told, position = read(bytes(bomb + on_the_wire(1, 2)))

    assert (offsets, stretches(told), position) == ([1, 2], [(0, 1)], 3)
    assert "cannot be unpacked" in told[0].why
    assert str(MAX_UNPACKED_BYTES) in told[0].why


def test_a_batch_of_too_many_records_is_named_and_not_read():
    empty = b"\x0c\x00\x00\x00\x01\x01\x00"  # a record of six bytes: no key, no value, no headers
    head = on_the_wire(0, 1)[:61]
    count = MAX_BATCH_RECORDS + 1
    head[8:12] = struct.pack(">i", 49 + count * len(empty))
    head[23:27], head[57:61] = struct.pack(">i", count - 1), struct.pack(">i", count)

    offsets, told, _ = read(sealed(head + empty * count), 0, 2**20)

    assert (offsets, stretches(told)) == ([], [(0, count)])


def test_so_much_is_opened_for_one_call_and_the_rest_is_fetched_again():
    """Many small batches that unpack to megabytes each: the consumer gets a few of them at a time."""
    one = 2**21
    data = bytes(b"".join(on_the_wire(first, 1, ZSTD, value=bytes(one)) for first in range(100)))
    reading = Reading(batches=True)
    taken = Fetched(PLACE, parts(data, PLACE, 0, END), 0, reading)

    first = list(taken)

    assert 1 <= len(first) <= 5
    assert taken.next_fetch_offset == len(first)


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD, 5, 7])
def test_packed_records_that_are_cut_off_or_of_no_codec_are_named(codec):
    batch = on_the_wire(0, 40, codec if codec <= ZSTD else NONE)
    if codec > ZSTD:
        batch[22] |= codec
    else:
        batch = batch[:-20]
        batch[8:12] = struct.pack(">i", len(batch) - 12)

    offsets, told, position = read(sealed(batch))

    assert (offsets, stretches(told), position) == ([], [(0, 40)], 40)
    assert "cannot be unpacked" in told[0].why


def test_a_broker_that_says_corrupt_is_asked_some_times_and_then_passed_offset_by_offset():
    reading = Reading()

    said = [reading.given_up(PLACE, 7) for _ in range(CORRUPT_ATTEMPTS)]

    assert said == [False] * (CORRUPT_ATTEMPTS - 1) + [True]
    assert reading.given_up(PLACE, 8)
    assert not reading.given_up(PLACE, 20)
