"""A pass over the archive: each event once, in one order, whatever was merged, however often it is interrupted."""

from __future__ import annotations

import json
from collections import Counter

import torch

from contracts.topics import PARTITIONS
from projections import manifest
from projections.testing import LogOfRecords, Trainers
from streams.feed import EventFeed
from tests.unit.feed.wanted import PACKETS, REPORTS


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
    monkeypatch.setattr("streams.feed.cursor.BLOCK", 10)
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


def test_a_folder_without_history_gives_nothing(tmp_path):
    assert list(EventFeed(tmp_path, PACKETS)) == []


def test_batches_survive_pinning_and_moving(feed):
    batch = next(iter(feed()))

    moved = batch.to("cpu")

    assert torch.equal(moved["event_id"], batch["event_id"])
    assert moved.body == "epoch_completed"
