"""A partition keeps what it was given, through restarts, torn writes and damaged bytes."""

from __future__ import annotations

import os
import tracemalloc
from itertools import pairwise

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from kio.schema.errors import ErrorCode

from streams.broker.batch import checked, header, intact
from streams.broker.handlers.records import first_at
from streams.broker.partition import RESERVE, Partition, PartitionState
from streams.broker.protocol import Refused
from tests.unit.broker.conftest import fill, flip


def test_records_come_back_in_order_from_every_offset(log):
    """Across segment borders, too."""
    fill(log, 60)
    assert len(log.segments()) > 3
    for offset in range(60):
        assert (offset, b"%06d" % offset + b"x" * 300) in log.read(offset)
    assert [offset for offset, _ in log.read_all()] == list(range(60))


def test_a_fetch_brings_at_least_one_batch_and_else_at_most_what_was_asked(log):
    for _ in range(4):
        log.append(*[b"y" * 100] * 5)
    one = len(log.partition.read(0, 1))
    assert one > 500
    assert len(log.partition.read(0, one + 10)) <= one + 10 or len(log.segments()) == 1
    assert log.partition.read(20, 1) == b""


def test_offsets_outside_are_refused(log):
    fill(log, 3)
    for offset in (-1, 4, 1000):
        with pytest.raises(Refused) as refused:
            log.partition.read(offset, 100)
        assert refused.value.code is ErrorCode.offset_out_of_range


def test_a_process_crash_loses_nothing_and_gives_no_offset_twice(log):
    fill(log, 40)
    log.crash()
    assert [offset for offset, _ in log.read_all()] == list(range(40))
    assert log.append(b"after") == 40


@pytest.mark.parametrize("cut", [1, 30, 61, 200])
def test_an_unfinished_batch_is_cut_off_and_its_offset_not_given_again(log, cut):
    """The process died inside a write, or the machine kept only a part of it."""
    fill(log, 5)

    def tear(folder):
        path = max(folder.glob("*.log"))
        os.truncate(path, path.stat().st_size - cut)

    whole = log.segments()[-1].stat().st_size // 5 * 4
    log.crash(damage=tear)
    assert log.segments()[-2].stat().st_size == whole, "nothing of it is left behind the next record"
    assert [offset for offset, _ in log.read_all()] == [0, 1, 2, 3]
    assert log.partition.end == log.behind(4) == 5, "offset 4 was given: readers pass over it"
    assert log.append(b"after") == 5
    assert [offset for offset, _ in log.read_all()] == [0, 1, 2, 3, 5]


@pytest.mark.parametrize("damaged", [(4,), (3, 4), (1, 3, 4), (2,), (0,)])
@pytest.mark.parametrize("restarts", [1, 3])
def test_a_batch_damaged_anywhere_stays_where_it_is_and_is_named(log, caplog, damaged, restarts):
    """Acknowledged batches behind a damaged one, and the damaged one itself, are not cut off, not even at the end."""
    fill(log, 5)
    path = log.segments()[-1]
    size = path.stat().st_size // 5

    def spoil(_):
        for number in damaged:
            flip(path, number * size + 100)

    log.crash(damage=spoil)
    kept = path.read_bytes()
    for _ in range(restarts - 1):
        caplog.clear()
        log.crash()
    served = {}
    for offset in range(5):
        data = log.partition.read(offset, 1)
        served[offset] = header(data).base_offset, intact(data, 0, header(data))
    following = log.append(b"after")
    log.crash()

    assert path.read_bytes()[: 5 * size] == kept
    assert served == {offset: (offset, offset not in damaged) for offset in range(5)}
    assert all(f"offsets {number} to" in caplog.text or f"to {number} are lost" in caplog.text for number in damaged)
    assert log.read(following) == [(5, b"after")]


def test_what_is_cut_off_is_kept_where_it_was_acknowledged(log, caplog):
    """The header is damaged, so nobody can say whether the write was finished; the tail mark says that it was."""
    fill(log, 5)
    path = log.segments()[-1]
    size = path.stat().st_size // 5
    lost = bytearray(path.read_bytes()[4 * size :])
    lost[8] ^= 0x7F

    log.crash(damage=lambda _: flip(path, 4 * size + 8))
    (kept,) = log.folder.glob("*.cut")
    assert len(kept.read_bytes()) == len(lost)
    assert f"cut off, from offset 4 on; they are kept in {kept.name}" in caplog.text
    assert "offsets 4 to 4 are not there" in caplog.text
    assert log.append(b"after") == 5
    caplog.clear()
    log.crash()
    assert "nothing that this log has written" not in caplog.text


@pytest.mark.parametrize("length", [9, 50, 100])
def test_an_unfinished_batch_that_nobody_was_told_of_is_simply_cut_off(log, length):
    fill(log, 4)
    records = log.segments()[-1].read_bytes()
    begun = (4).to_bytes(8, "big") + records[8:length]

    def tear(folder):
        with log.segments()[-1].open("ab") as file:
            file.write(begun)

    log.crash(damage=tear)
    assert list(log.folder.glob("*.cut")) == []
    assert log.segments()[-1].read_bytes() == records
    assert log.append(b"after") == 4


def test_whole_batches_lost_at_the_end_are_not_given_again(log):
    """A tail that ends cleanly but too early: only the tail mark knows."""
    fill(log, 5)
    size = log.segments()[-1].stat().st_size

    log.crash(damage=lambda _: os.truncate(log.segments()[-1], size // 5 * 3))
    assert log.partition.end == log.behind(3) == 5
    assert log.append(b"after") == 5


def test_after_the_machine_died_offsets_go_on_beyond_the_reservation(log):
    """Half a second of records may be gone that readers have seen: none of their offsets may come back."""
    fill(log, 5)
    mark = log.folder / "tail"
    stale = bytearray(mark.read_bytes())

    def lose(_):
        os.truncate(log.segments()[-1], 0)
        mark.write_bytes(stale)

    log.crash(machine_died=True, damage=lose)
    assert log.partition.end == log.behind(0) >= RESERVE
    assert log.append(b"after") >= RESERVE
    assert len(log.read_all()) == 1


def test_a_damaged_tail_mark_gives_no_offset_twice(log):
    fill(log, 5)
    log.crash(damage=lambda folder: (folder / "tail").write_bytes(b"garbage"))
    assert log.append(b"after") > 5
    assert len(log.read_all()) == 6


def test_a_lost_tail_mark_beside_a_damaged_first_batch_gives_no_offset_twice(log):
    """Nothing is left that could be scanned: the bytes alone tell that offsets were given."""
    given = log.append(b"acknowledged")

    def damage(folder):
        (folder / "tail").unlink()
        (path,) = folder.glob("*.log")
        data = bytearray(path.read_bytes())
        data[30] ^= 1
        path.write_bytes(data)

    log.crash(damage=damage)

    assert log.append(b"another") > given


@pytest.mark.parametrize("last", ["before the last", "long before"])
@pytest.mark.parametrize("at", [3, 8, 9, 16, 18, 30, 70])
def test_an_older_tail_mark_beside_a_damaged_last_batch_gives_no_offset_twice(log, last, at):
    """The mark tells nothing of that batch; that it is no write that broke off is seen by itself, and it is kept."""
    fill(log, 3)
    older = (log.folder / "tail").read_bytes()
    if last == "long before":
        fill(log, 3)
    start = log.segments()[-1].stat().st_size
    given = log.append(b"acknowledged")

    def damage(folder):
        (folder / "tail").write_bytes(older)
        flip(log.segments()[-1], start + at)

    log.crash(damage=damage)
    read, end = log.read_all(), log.partition.end
    log.crash()

    assert [offset for offset, _ in read] == list(range(given))
    assert list(log.folder.glob("*.cut"))
    assert log.append(b"another") == end > given


@pytest.mark.parametrize("kind", ["nothing is left", "records before it"])
def test_a_hole_at_the_logs_end_is_passed_over_before_a_record_comes_behind_it(log, kind):
    """By every start of the log; who has read to there knows that something is missing."""
    fill(log, 0 if kind == "nothing is left" else 3)
    log.append(b"acknowledged")
    first = log.partition.end - 1

    def lose(folder):
        (folder / "tail").unlink()
        flip(log.segments()[-1], log.segments()[-1].stat().st_size - 5)

    log.crash(damage=lose)
    for _ in range(3):
        log.crash()
        end = log.partition.end
        assert log.partition.next_offset == log.behind(first) == end
        assert [offset for offset, _ in log.read_all()] == list(range(first))
        assert len(log.segments()) == 2
    assert log.append(b"another") == end
    assert log.read(first) == [(end, b"another")]


def test_a_reader_ahead_of_the_lost_tail_simply_waits(log):
    """Its position is legal, and the next record reaches it."""
    fill(log, 5)
    log.crash(damage=lambda _: os.truncate(log.segments()[-1], 0))
    assert log.partition.end == 5
    assert log.partition.read(5, 100) == b""
    log.append(b"after")
    assert log.read(5) == [(5, b"after")]


def test_a_whole_partition_names_nothing(log, caplog):
    fill(log, 60)
    log.crash()
    log.partition.delete_before(30)  # whose durable note is the store's
    Partition(log.folder, "t-0", PartitionState(machine_died=False, log_start=30, now_ms=5_000)).close()
    assert "not there" not in caplog.text
    assert "are in it and in" not in caplog.text


def test_damage_inside_the_active_segment_costs_only_the_damaged_batch(log, caplog):
    """What follows is intact and acknowledged: cutting it off would lose it."""
    fill(log, 5)
    size = log.segments()[-1].stat().st_size // 5
    log.crash(damage=lambda _: flip(log.segments()[-1], size * 2 + 10))  # in the length of batch 2
    assert "offsets 2 to 2 are lost" in caplog.text
    assert [offset for offset, _ in log.read(0)] == [0, 1]
    assert [offset for offset, _ in log.read(3)] == [3, 4]
    assert log.append(b"after") == 5


def test_a_batch_that_says_it_is_elsewhere_is_damage(log, caplog):
    """The checksum does not cover the base offset."""
    fill(log, 5)
    size = log.segments()[-1].stat().st_size // 5
    log.crash(damage=lambda _: flip(log.segments()[-1], size * 2 + 7))  # the last byte of batch 2's base offset
    assert "offsets 2 to 2 are lost" in caplog.text
    assert [offset for offset, _ in log.read(3)] == [3, 4]
    with pytest.raises(AssertionError, match="client would refuse"):
        log.read(2)


def test_a_producer_is_known_across_segments_and_restarts(log):
    """A batch sent again is answered with its old offset, from the sidecar's snapshot and from the scan."""
    for sequence in range(40):
        log.append(b"z" * 400, producer=(7, 0, sequence))
    assert len(log.segments()) > 2
    log.crash()
    for sequence in range(35, 40):
        assert log.append(b"z" * 400, producer=(7, 0, sequence)) == sequence
    assert log.partition.end == 40
    assert log.append(b"new", producer=(7, 0, 40)) == 40


def test_deleting_drops_whole_segments_and_survives(log):
    fill(log, 60)
    bases = [int(path.stem) for path in log.segments()]
    log.partition.delete_before(bases[2] + 1)
    assert [int(path.stem) for path in log.segments()] == bases[2:]
    assert log.partition.start == bases[2] + 1
    with pytest.raises(Refused):
        log.partition.read(bases[2], 100)
    log.partition.delete_before(60)
    assert log.partition.size == 0
    log.crash()
    assert (log.partition.start, log.partition.end, log.append(b"after")) == (60, 60, 60)


def test_a_full_disk_refuses_and_leaves_the_log_as_it_was(log, monkeypatch):
    """The write stops half way, as it does when the last block is taken."""
    fill(log, 3)
    before = log.segments()[-1].read_bytes()
    real = os.pwritev

    def half(fd, buffers, offset):
        data = b"".join(bytes(each) for each in buffers)
        return real(fd, [data[: len(data) // 2]], offset)

    monkeypatch.setattr(os, "pwritev", half)
    with pytest.raises(Refused, match="No space left") as refused:
        log.append(b"too much")
    monkeypatch.setattr(os, "pwritev", real)
    assert refused.value.code is ErrorCode.kafka_storage_error
    assert log.segments()[-1].read_bytes() == before
    assert log.append(b"room again") == 3
    log.crash()
    assert [offset for offset, _ in log.read_all()] == [0, 1, 2, 3]


def test_segments_follow_each_other_without_gaps(log):
    fill(log, 60)
    log.crash()
    for (_, before), (base, _) in pairwise((seg.base_offset, seg.index.next_offset) for seg in log.partition._segments):
        assert before == base


def test_a_compressed_batch_is_found_by_time_without_being_unpacked(log):
    """50 MB of zeros in 50 KB: opening it to look for a time would cost the broker a thousand times its size."""
    log.append(b"before", timestamp=1_000)
    packed = gzip_batch(50_000_000, timestamp=2_000)
    log.partition.append(packed, checked(packed, 1 << 20), 5_000, 1 << 20)
    tracemalloc.start()
    found = first_at(log.partition, 1_500)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert found == (2_000, 1)
    assert peak < 1 << 20


def gzip_batch(size, timestamp):
    builder = DefaultRecordBatchBuilder(2, 1, 0, -1, -1, -1, 1 << 30)
    builder.append(0, timestamp, None, bytes(size), [])
    return bytes(builder.build())
