"""Which events a pass has: of which runs, tasks and rows, from where on, and without what is damaged."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from contracts.leyline.v1 import event_pb2
from projections import manifest
from streams.feed import EventFeed, Schema
from tests.unit.feed.wanted import ID, PACKETS


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
    monkeypatch.setattr("streams.feed.batch.WAIT_S", 0.2)
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
    monkeypatch.setattr("streams.feed.batch.WAIT_S", 0.2)
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
