"""Idempotence: a batch is stored once, whatever is sent again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from streams.broker.batch import Batch
from streams.broker.producers import EXPIRY_MS, MAX_PRODUCERS, Producers
from streams.broker.protocol import Refused

LAST = 2**31 - 1


def batch(sequence, count=1, producer_id=1, epoch=0):
    """A header; nothing else of a batch matters here."""
    return Batch(0, 49, 0, 2, 0, 0, count - 1, 0, 0, producer_id, epoch, sequence, count)


def store(producers, given_batch, offset, now_ms=0):
    """What the partition does with a batch: the offset that it has afterwards."""
    known = producers.duplicate_of(given_batch)
    if known is not None:
        return known
    producers.record(given_batch, offset, now_ms)
    return offset


def test_the_last_five_batches_are_known():
    producers = Producers()
    for sequence in range(7):
        store(producers, batch(sequence), sequence)
    for sequence in range(2, 7):
        assert producers.duplicate_of(batch(sequence)) == sequence
    with pytest.raises(Refused) as refused:
        producers.duplicate_of(batch(1))
    assert refused.value.code is ErrorCode.duplicate_sequence_number


@pytest.mark.parametrize("sequence", [5, 100, 2**30])
def test_a_gap_is_refused(sequence):
    producers = Producers()
    store(producers, batch(3), 0)
    with pytest.raises(Refused) as refused:
        producers.duplicate_of(batch(sequence))
    assert refused.value.code is ErrorCode.out_of_order_sequence_number


def test_sequences_wrap():
    producers = Producers()
    store(producers, batch(LAST - 1, count=2), 0)
    assert store(producers, batch(0), 2) == 2
    assert store(producers, batch(LAST - 1, count=2), 99) == 0
    producers = Producers()
    store(producers, batch(LAST, count=3), 0)  # records LAST, 0 and 1
    assert store(producers, batch(2), 3) == 3


def test_epochs_only_rise_and_begin_at_zero():
    producers = Producers()
    store(producers, batch(5, epoch=3), 0)
    with pytest.raises(Refused) as old:
        producers.duplicate_of(batch(6, epoch=2))
    assert old.value.code is ErrorCode.invalid_producer_epoch
    with pytest.raises(Refused) as late:
        producers.duplicate_of(batch(6, epoch=4))
    assert late.value.code is ErrorCode.out_of_order_sequence_number
    assert store(producers, batch(0, epoch=4), 9) == 9


def test_a_stranger_and_one_without_id_may_start_anywhere():
    producers = Producers()
    assert store(producers, batch(17), 4) == 4
    assert producers.duplicate_of(batch(-1, producer_id=-1)) is None
    producers.record(batch(-1, producer_id=-1), 5, 0)
    assert len(producers) == 1


def test_the_silent_are_forgotten_and_the_active_are_not():
    producers = Producers()
    store(producers, batch(0, producer_id=1), 0, now_ms=0)
    store(producers, batch(0, producer_id=2), 1, now_ms=0)
    store(producers, batch(1, producer_id=1), 2, now_ms=10)
    producers.expire(EXPIRY_MS + 5)
    assert len(producers) == 1
    assert producers.duplicate_of(batch(1, producer_id=1)) == 2


def test_there_is_a_limit():
    producers = Producers()
    for number in range(MAX_PRODUCERS + 10):
        store(producers, batch(0, producer_id=number), number)
    assert len(producers) == MAX_PRODUCERS
    assert producers.duplicate_of(batch(0, producer_id=MAX_PRODUCERS)) == MAX_PRODUCERS


def test_restoring_forgets_what_the_snapshot_does_not_know():
    """Recovery goes through the sidecars of all closed segments; a producer that fell silent is in the older ones."""
    older, newer = Producers(), Producers()
    store(older, batch(0, producer_id=1), 0)
    store(newer, batch(0, producer_id=2), 1)
    producers = Producers()
    producers.restore(older.snapshot())
    producers.restore(newer.snapshot())
    assert producers.snapshot() == newer.snapshot()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50), st.integers(0, 4)), max_size=60))
def test_whatever_is_repeated_nothing_is_stored_twice_and_a_snapshot_forgets_nothing(steps):
    """Each step: a producer's next batch, then one of its last five again, all through a snapshot."""
    producers, stored, nexts = Producers(), {}, {}
    offset = 0
    for producer_id, count, back in steps:
        sequence = nexts.get(producer_id, 0)
        fresh = batch(sequence, count, producer_id)
        assert store(producers, fresh, offset) == offset
        stored.setdefault(producer_id, []).append((fresh, offset))
        nexts[producer_id] = sequence + count
        offset += count
        restored = Producers()
        restored.restore(producers.snapshot())
        producers = restored
        again, where = stored[producer_id][-1 - min(back, len(stored[producer_id]) - 1)]
        assert store(producers, again, offset) == where
