"""A pass over the archive: each event once, in one order, whatever was merged, however often it is interrupted."""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore
from torchdata.stateful_dataloader import StatefulDataLoader

from contracts.leyline.v1 import event_pb2
from contracts.topics import PARTITIONS
from esper.errors import InvalidInput
from projections import manifest
from projections.testing import LogOfRecords, Trainers
from streams.feed import EventFeed, Field, Schema

ID = Field("event_id", width=16)
PACKETS = Schema("epoch_completed", [ID, "log_partition", "log_offset", "epoch"])
REPORTS = Schema("field_report", [ID, "log_partition", "log_offset"])


@contextmanager
def ranked(rank, ranks):
    """This process as one of many ranks; torch's own `fake` group, which has no others."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture
def feed(data_dir):
    """A feed of the shared archive in small batches."""

    def make(*schemas, **options):
        return EventFeed(data_dir, *(schemas or (PACKETS,)), **{"batch_size": 32, **options})

    return make


def test_every_event_comes_once_in_the_order_of_its_partition(feed, made, ids, small_blocks, events_of):
    read = feed()
    order = {}
    for batch in read:
        for partition, offset in zip(batch["log_partition"].tolist(), batch["log_offset"].tolist(), strict=True):
            order.setdefault(partition, []).append(offset)

    assert Counter(ids(feed())) == Counter(event.event_id for event in events_of(made, "epoch_completed"))
    assert len(order) == PARTITIONS
    assert all(offsets == sorted(set(offsets)) for offsets in order.values())


def test_batches_are_full_but_for_the_last(feed, made, events_of):
    sizes = [len(batch) for batch in feed()]

    assert sum(sizes) == len(events_of(made, "epoch_completed"))
    assert set(sizes[:-1]) == {32}


def test_the_order_is_that_of_the_offsets_whatever_was_merged(few, tmp_path, ids, monkeypatch, fill, merge):
    monkeypatch.setattr("streams.feed.lanes.BLOCK", 10)
    fill(tmp_path / "archive", few, flush=40)
    before = ids(EventFeed(tmp_path, PACKETS))
    files = len(manifest.load(tmp_path / "archive").of("epoch_completed"))

    merge(tmp_path / "archive")

    assert len(manifest.load(tmp_path / "archive").of("epoch_completed")) < files
    assert ids(EventFeed(tmp_path, PACKETS)) == before


def test_little_room_for_files_changes_nothing(feed, ids, small_blocks, monkeypatch):
    whole = ids(feed())
    monkeypatch.setattr("streams.feed.archived.HELD", 1)

    assert ids(feed()) == whole


def test_several_types_come_in_batches_of_their_own(feed, made, events_of):
    read = [(batch.body, len(batch)) for batch in feed(PACKETS, REPORTS)]

    found = Counter()
    for body, rows in read:
        found[body] += rows
    assert found == {body: len(events_of(made, body)) for body in ("epoch_completed", "field_report")}


def test_a_pass_can_be_left_after_any_batch_and_goes_on_behind_it(feed, ids, small_blocks):
    schemas = (PACKETS, REPORTS)
    whole = [(batch.body, batch["event_id"].tolist()) for batch in feed(*schemas, batch_size=60)]

    for count in range(len(whole) + 1):
        left, seen = feed(*schemas, batch_size=60), []
        batches = iter(left)
        for _ in range(count):
            batch = next(batches)
            seen.append((batch.body, batch["event_id"].tolist()))
        state = json.loads(json.dumps(left.state_dict()))
        going_on = feed(*schemas, batch_size=60)
        going_on.load_state_dict(state)
        seen += [(batch.body, batch["event_id"].tolist()) for batch in going_on]
        rows = {body: [row for each, rows in seen if each == body for row in rows] for body, _ in whole}
        assert rows == {body: [row for each, rows in whole if each == body for row in rows] for body, _ in whole}, count


def test_the_next_pass_begins_anew(feed, ids):
    read = feed()

    first, second = ids(read), ids(read)

    assert first == second
    assert read.state_dict()["epoch"] == 2


def test_a_pass_ends_where_the_archive_ended_when_it_began(few, tmp_path, ids, fill):
    fill(tmp_path / "archive", few[:300])
    read = EventFeed(tmp_path, PACKETS, batch_size=8)
    whole, batches = ids(read), iter(read)
    next(batches)
    state = read.state_dict()
    batches.close()
    fill(tmp_path / "archive", few)

    going_on = EventFeed(tmp_path, PACKETS, batch_size=8)
    going_on.load_state_dict(state)

    assert ids(going_on) == whole[8:]
    assert len(ids(going_on)) > len(whole), "the pass after it sees what came meanwhile"


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 on torch 2.13
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_loader_goes_on_where_its_state_was_taken(feed, made, workers, small_blocks, events_of):
    def loader():
        return StatefulDataLoader(feed(batch_size=16), batch_size=None, num_workers=workers)

    left = loader()
    seen = []
    for count, batch in enumerate(left, 1):
        seen += batch["event_id"].tolist()
        if count == 5:
            state = left.state_dict()
            break
    going_on = loader()
    going_on.load_state_dict(state)
    for batch in going_on:
        seen += batch["event_id"].tolist()
    again = [row for batch in going_on for row in batch["event_id"].tolist()]

    everything = sorted(list(event.event_id) for event in events_of(made, "epoch_completed"))
    assert sorted(seen) == everything
    assert sorted(again) == everything, "the next epoch is whole"


def test_more_readers_than_partitions_is_said_and_loses_nothing(feed, made, caplog, events_of):
    seen, counts = [], []
    for number in range(6):
        with caplog.at_level(logging.WARNING), ranked(number, 6):
            rows = [row for batch in feed() for row in batch["event_id"].tolist()]
        seen += rows
        counts.append(len(rows))

    assert sorted(seen) == sorted(list(event.event_id) for event in events_of(made, "epoch_completed"))
    assert [count > 0 for count in counts] == [True] * 4 + [False] * 2
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "reader 4 of 6 gets no events",
        "reader 5 of 6 gets no events",
    ]


def test_a_run_belongs_to_one_reader(feed, made, events_of):
    names = {event.run_id for event in events_of(made, "epoch_completed")}
    runs = Schema("epoch_completed", [Field("run_id", "run", among=tuple(sorted(names)))])
    held = []
    for number in range(2):
        with ranked(number, 2):
            held.append({run for batch in feed(runs) for run in batch["run"].tolist()})

    assert held[0]
    assert held[1]
    assert held[0] | held[1] == set(range(1, len(names) + 1))
    assert not held[0] & held[1]


def test_the_state_of_another_reader_or_another_feed_is_refused(feed):
    state = _state_after_one(feed())
    other_types = feed(REPORTS)
    other_types.load_state_dict(state)
    with pytest.raises(InvalidInput, match="is of other event types"):
        iter(other_types)

    other_rank = feed()
    other_rank.load_state_dict(state)
    with ranked(1, 2), pytest.raises(InvalidInput, match="is of reader 1 of 1 and this is reader 2 of 2"):
        iter(other_rank)


def _state_after_one(read):
    next(iter(read))
    return read.state_dict()


def test_an_event_that_was_delivered_again_comes_once_however_late(tmp_path, ids, fill):
    trainers = Trainers("run-1")
    for _ in range(30):
        trainers.complete_epoch(0)
    trainers.repeat(1)
    for _ in range(200):
        trainers.complete_epoch(0)
    trainers.repeat(1)
    trainers.repeat(40)
    fill(tmp_path / "archive", LogOfRecords().place(trainers.events), flush=50)

    found = ids(EventFeed(tmp_path, PACKETS, batch_size=10))

    assert len(found) == 230
    assert Counter(found).most_common(1)[0][1] == 1


def test_only_the_wanted_runs_and_tasks_and_rows(feed, made, ids, events_of):
    packets = events_of(made, "epoch_completed")
    run = packets[-1].run_id

    some = Schema("epoch_completed", [ID], where=[("epoch", ">", 40), ("state.validation_loss", "<", 0.03)])

    assert ids(feed(runs=[run])) == [event.event_id for event in packets if event.run_id == run]
    assert sorted(ids(feed(tasks=["digits"]))) == sorted(event.event_id for event in packets)
    assert ids(feed(tasks=["spirals"])) == []
    wanted = [e.event_id for e in packets if e.epoch > 40 and e.epoch_completed.state.validation_loss < 0.03]
    assert 0 < len(wanted) < len(packets)
    assert sorted(ids(feed(some))) == sorted(wanted)


def test_a_run_whose_task_nobody_knows_is_left_out_and_named(few, tmp_path, ids, fill, monkeypatch, caplog):
    monkeypatch.setattr("streams.feed.selection.WAIT_S", 0.2)
    fill(tmp_path / "archive", few)  # without any run's first fact

    with caplog.at_level(logging.WARNING):
        found = ids(EventFeed(tmp_path, PACKETS, tasks=["digits"]))

    assert found == []
    assert "the archive does not know the task of 010000000000" in caplog.text


def test_a_pass_begins_at_an_offset(feed):
    read = feed(start={("esper.runs", 1): 100})

    first = {}
    for batch in read:
        for partition, offset in zip(batch["log_partition"].tolist(), batch["log_offset"].tolist(), strict=True):
            first.setdefault(partition, offset)
    assert first[1] >= 100
    assert all(first[partition] < 100 for partition in (0, 2, 3))


def test_a_pass_begins_with_the_first_record_at_a_time(feed, made, ids):
    packets = [(record, event) for record, event in parsed(made) if event.WhichOneof("body") == "epoch_completed"]
    time_ms = sorted(record.timestamp for record, _ in packets)[len(packets) // 2]
    begun, wanted = set(), []
    for record, event in packets:
        if record.timestamp >= time_ms:
            begun.add(record.partition)
        if record.partition in begun:
            wanted.append(event.event_id)

    found = ids(feed(start=datetime.fromtimestamp(time_ms / 1000, UTC)))

    assert 0 < len(wanted) < len(packets)
    assert sorted(found) == sorted(wanted)


def parsed(made):
    return [(record, event_pb2.Event.FromString(record.value)) for record in made]


def test_a_damaged_file_is_named_and_the_rest_is_read(few, tmp_path, ids, fill, caplog):
    archive = fill(tmp_path / "archive", few, flush=100)
    whole = ids(EventFeed(tmp_path, PACKETS))
    entry = manifest.load(archive).of("epoch_completed")[2]
    path = archive / "files" / entry.name
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    with caplog.at_level(logging.WARNING):
        rest = ids(EventFeed(tmp_path, PACKETS))

    assert len(rest) == len(whole) - entry.rows
    assert entry.name in caplog.text


def test_a_damaged_file_of_first_facts_leaves_out_its_runs_and_is_named(made, tmp_path, ids, fill, monkeypatch, caplog):
    monkeypatch.setattr("streams.feed.selection.WAIT_S", 0.2)
    archive = fill(tmp_path / "archive", made)
    whole = ids(EventFeed(tmp_path, PACKETS, tasks=["digits"]))
    (entry, *others) = manifest.load(archive).of("run_started")
    path = archive / "files" / entry.name
    path.write_bytes(b"!" * path.stat().st_size)

    with caplog.at_level(logging.WARNING):
        rest = ids(EventFeed(tmp_path, PACKETS, tasks=["digits"]))

    assert (len(rest) < len(whole), len(rest) > 0) == (True, bool(others))
    assert entry.name in caplog.text
    assert "the archive does not know the task of" in caplog.text


def test_a_folder_without_history_gives_nothing(tmp_path):
    assert list(EventFeed(tmp_path, PACKETS)) == []


def test_batches_survive_pinning_and_moving(feed):
    batch = next(iter(feed()))

    moved = batch.to("cpu")

    assert torch.equal(moved["event_id"], batch["event_id"])
    assert moved.body == "epoch_completed"
