"""Batches: what was fetched in columns is what would have been fetched record by record."""

from __future__ import annotations

import pytest
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from projections.archive_writer import Archive
from projections.manifest import Gap
from projections.records import Batch, batches_of
from streams.bulk import BatchesOfPartition

PLACE = TopicPartition("esper.runs", 1)


def on_the_wire(first: int, count: int) -> bytes:
    """A producer's batch, its offsets as the broker would set them."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 2**20)
    for i in range(count):
        value = None if i == 1 else b"v%d" % (first + i)
        builder.append(i, 1_000 + i, b"k", value, [("esper-key", b"0123abcd"), ("é", None)])
    built = bytearray(builder.build())
    built[:8] = first.to_bytes(8, "big")
    return bytes(built)


def fetched(kind, data: bytes, position: int = 0):
    return kind(PLACE, MemoryRecords(data), None, position, None, None, True, 0)


@pytest.mark.parametrize("position", [0, 3])
def test_batches_hold_what_single_records_would(position):
    """Also where the position lies within a batch, which the log only gives whole."""
    data = on_the_wire(0, 5) + on_the_wire(5, 4)

    batches = list(in_bulk := fetched(BatchesOfPartition, data, position))
    single = list(one_by_one := fetched(PartitionRecords, data, position))

    flat = [
        (batch.topic, batch.partition, *row, tuple(headers))
        for batch in batches
        for *row, headers in zip(batch.offsets, batch.timestamps, batch.keys, batch.values, batch.headers, strict=True)
    ]
    assert flat == [(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, r.headers) for r in single]
    assert [row[2] for row in flat] == list(range(position, 9))
    assert in_bulk.next_fetch_offset == one_by_one.next_fetch_offset == 9


def test_a_flipped_bit_on_the_way_is_noticed():
    data = bytearray(on_the_wire(0, 5))
    data[-3] ^= 1

    with pytest.raises(CorruptRecordException):
        list(fetched(BatchesOfPartition, bytes(data)))


def test_single_records_become_one_batch_per_partition(any_record):
    records = [any_record("run_resumed", offset) for offset in range(3)]
    other = any_record("decision_made", 0)

    found = batches_of([records[0], other, *records[1:]])

    assert [(batch.topic, batch.offsets) for batch in found] == [("esper.runs", [0, 1, 2]), ("esper.commands", [0])]
    assert found[0].at([2]).values == [records[2].value]


def test_batches_that_overlap_or_jump_are_taken_once_and_the_jump_is_named(tmp_path, any_record):
    """As a fetch after a restart may repeat some, and a log may have lost some."""

    def batch(*offsets: int) -> Batch:
        (made,) = batches_of([any_record("run_resumed", offset) for offset in offsets])
        return made

    with Archive(tmp_path) as archive:
        assert archive.take([batch(0, 1), batch(1, 2)]).rows == 3
        assert archive.take([batch(2), batch(2, 3, 6), batch(8)]).rows == 3
        assert archive.take([batch(3, 6)]).rows == 0
        assert archive.manifest.gaps == (Gap("esper.runs", 0, 4, 6), Gap("esper.runs", 0, 7, 8))
        assert archive.manifest.next_offsets == {("esper.runs", 0): 9}
