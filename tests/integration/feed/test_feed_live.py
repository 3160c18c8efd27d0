"""The feed on a log: no seam behind the archive, nothing unsigned, nothing twice, and no end with a broker's."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from dataclasses import replace

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition
from torchdata.stateful_dataloader import StatefulDataLoader

from contracts.leyline.v1 import event_pb2
from contracts.topics import LOCAL, PARTITIONS
from esper.errors import InvalidInput, LogUnavailable
from esper.leyline.signing import KeyRing
from projections.records import StoredRecord
from projections.testing import LogOfRecords
from streams.feed import EventFeed, Field, Schema
from streams.feed.log_reader import LogReader
from tests.integration.oona.oona_processes import add_partitions


def rows_of(batches, count):
    """The ids of the next `count` rows."""
    found = []
    while len(found) < count:
        found += [bytes(row) for row in next(batches)["event_id"].numpy()]
    return found


def both(desk):
    """Schemas of two topics."""
    return Schema("epoch_completed", [Field("event_id", width=16)]), Schema(
        "field_report", [Field("event_id", width=16)]
    )


@pytest.mark.parametrize("archived", [0, 170, 450])
def test_the_seam_between_archive_and_log_is_nowhere(desk, events, archived, monkeypatch):
    monkeypatch.setattr("streams.feed.cursor.BLOCK", 10)
    records = desk.place(events)
    desk.publish(records)
    if archived:
        desk.archive(records[:archived])

    found = desk.ids(desk.feed(*both(desk), batch_size=7))

    assert sorted(found) == sorted(event.event_id for event in events)
    desk.archive(records)
    assert found == desk.ids(desk.feed(*both(desk), batch_size=7, end="archive")), "the order knows no seam either"


def test_runs_without_a_log_are_read_beside_those_of_one(desk, packets):
    """They lie in a partition of the archive that no log has; a pass that was left before they came goes on."""
    logged, local = packets[:20], packets[20:30]
    desk.publish(desk.place(logged))
    left = desk.feed(batch_size=8)
    batches = iter(left)
    seen = [bytes(row) for row in next(batches)["event_id"].numpy()]
    state = left.state_dict()
    batches.close()
    places = zip(itertools.count(), desk.log.place(local), strict=False)
    desk.archive([replace(record, partition=LOCAL, offset=number) for number, record in places])
    wanted = sorted(event.event_id for event in (*logged, *local))
    going_on = desk.feed(batch_size=8)
    going_on.load_state_dict(state)

    assert sorted(seen + desk.ids(going_on)) == wanted
    assert sorted(desk.ids(desk.feed())) == wanted
    assert sorted(desk.ids(desk.feed(end="archive"))) == sorted(event.event_id for event in local)
    assert desk.ids(desk.feed(start="new")) == []
    followed = iter(desk.feed(end="never"))
    assert sorted(rows_of(followed, len(wanted))) == wanted


def test_a_pass_over_archive_and_log_goes_on_behind_any_batch(desk, events, monkeypatch):
    monkeypatch.setattr("streams.feed.cursor.BLOCK", 25)
    records = desk.place(events)
    desk.publish(records)
    desk.archive(records[:200])
    schemas = both(desk)
    whole = sum(1 for _ in desk.feed(*schemas, batch_size=40))

    for count in range(1, whole, 3):
        left = desk.feed(*schemas, batch_size=40)
        batches = iter(left)
        seen = [bytes(row) for batch in itertools.islice(batches, count) for row in batch["event_id"].numpy()]
        state = left.state_dict()
        batches.close()
        going_on = desk.feed(*schemas, batch_size=40)
        going_on.load_state_dict(state)
        seen += desk.ids(going_on)
        assert sorted(seen) == sorted(event.event_id for event in events), count


def test_what_is_not_signed_or_no_event_is_left_out_and_said(desk, packets, caplog):
    good, bad = packets[:20], packets[20:30]
    records = desk.place(good)
    desk.publish(records)
    for event, ring in zip(bad, [None, KeyRing((b"s" * 32,))] * 5, strict=True):
        desk.publish(desk.place([event]), ring)
    torn = desk.log.place_one(packets[0].run_id, "esper.runs", packets[40].SerializeToString()[:-3])
    stray = desk.log.place_one(packets[0].run_id, "esper.runs", b"")
    desk.publish([torn, stray])
    desk.publish(desk.place(packets[30:35]))

    with caplog.at_level(logging.WARNING):
        found = desk.ids(desk.feed())

    assert sorted(found) == sorted(event.event_id for event in [*good, *packets[30:35]])
    told = [record for record in caplog.records if "the feed left out" in record.getMessage()]
    assert sum(record.args[0] for record in told) == 12


def test_a_retired_key_vouches_for_what_came_before_it_retired(desk, packets, monkeypatch):
    """By the log's own time: an event that says that it was recorded earlier says nothing of when it came."""
    records = desk.place(packets)
    desk.publish(records[:150])
    retired_s = int(time.time()) + 1  # keys retire at whole seconds
    time.sleep(max(0.0, retired_s - time.time()))
    desk.publish(records[150:])
    monkeypatch.setenv("ESPER_KEY", "7a" * 32)
    assert desk.ids(desk.feed()) == []

    monkeypatch.setenv("ESPER_KEYS_RETIRED", f"{'6f' * 32}@{retired_s}")
    found = desk.ids(desk.feed())

    assert sorted(found) == sorted(event.event_id for event in packets[:150])


def test_an_event_that_is_delivered_again_comes_once_also_behind_a_restart(desk, packets):
    first, last = packets[:-20], packets[-20:]
    desk.publish(desk.place(first))
    left = desk.feed(end="never", batch_size=50)
    batches = iter(left)
    seen = rows_of(batches, 100)
    state = left.state_dict()
    batches.close()
    desk.publish(desk.place([*first[:5], *first[150:155], *last]))

    going_on = desk.feed(end="never", batch_size=50)
    going_on.load_state_dict(state)
    seen += rows_of(iter(going_on), len(packets) - 100)

    assert sorted(seen) == sorted(event.event_id for event in packets)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 on torch 2.13
def test_workers_share_the_log(desk, packets):
    records = desk.place(packets)
    desk.publish(records)
    desk.archive(records[:100])
    loader = StatefulDataLoader(desk.feed(), batch_size=None, num_workers=2)

    seen = [bytes(row) for batch in loader for row in batch["event_id"].numpy()]

    assert sorted(seen) == sorted(event.event_id for event in packets)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 on torch 2.13
def test_a_worker_whose_partitions_are_silent_holds_nobody_up(desk, packets):
    """All is on one worker's partitions, so a batch of each in turn is one of the other's, too; states stay exact."""
    mine = [event for event in packets if event.run_id == packets[0].run_id]
    first, later = mine[:35], mine[35:]
    desk.publish(desk.place(first))
    seen = {}
    state = None
    for part, wanted in enumerate((first, later)):
        feed = desk.feed(end="never", batch_size=8)
        loader = StatefulDataLoader(feed, batch_size=None, num_workers=2, timeout=20)
        if state is not None:
            loader.load_state_dict(state)
            desk.publish(desk.place(later))
        seen[part] = []
        for batch in loader:
            assert len(batch) == len(batch["event_id"])
            seen[part] += [bytes(row) for row in batch["event_id"].numpy()]
            if len(seen[part]) >= len(wanted):
                state = loader.state_dict()
                break
        del loader

    assert sorted(seen[0]) == sorted(event.event_id for event in first)
    assert sorted(seen[1]) == sorted(event.event_id for event in later)


def test_a_follower_gets_what_comes_in_batches_that_do_not_wait_long(desk, packets):
    desk.publish(desk.place(packets[:40]))
    batches = iter(desk.feed(end="never", batch_size=1_000))
    first = rows_of(batches, 40)

    began = time.monotonic()
    desk.publish(desk.place(packets[40:43]))
    second = rows_of(batches, 3)

    assert sorted(first) == sorted(event.event_id for event in packets[:40])
    assert sorted(second) == sorted(event.event_id for event in packets[40:43])
    assert time.monotonic() - began < 20


def test_only_new_is_what_is_logged_from_now_on(desk, packets):
    desk.publish(desk.place(packets[:40]))
    feed = desk.feed(start="new", end="never")
    batches = iter(feed)

    desk.publish(desk.place(packets[40:60]))

    assert sorted(rows_of(batches, 20)) == sorted(event.event_id for event in packets[40:60])


def test_partitions_that_somebody_adds_are_read_from_their_beginning_also_with_a_state_from_before(
    desk, packets, monkeypatch
):
    monkeypatch.setattr("streams.feed.epoch_reader.LOOK_FOR_MORE_S", 0.05)
    known, added = packets[:40], packets[40:60]
    desk.publish(desk.place(known))
    feed = desk.feed(end="never", batch_size=8)
    batches = iter(feed)
    seen = rows_of(batches, 40)
    state = feed.state_dict()

    asyncio.run(add_partitions(desk.broker.address, PARTITIONS + 2))
    places = zip(itertools.count(), LogOfRecords().place(added), strict=False)
    desk.publish([replace(record, partition=PARTITIONS + 1, offset=number) for number, record in places])
    seen += rows_of(batches, 20)
    going_on = desk.feed(end="never", batch_size=8)
    going_on.load_state_dict(state)

    assert sorted(seen) == sorted(event.event_id for event in packets[:60])
    assert sorted(rows_of(iter(going_on), 20)) == sorted(event.event_id for event in added)
    assert f"esper.runs/{PARTITIONS + 1}/epoch_completed" in feed.state_dict()["lanes"]


def test_a_follower_goes_on_when_the_broker_was_killed_and_comes_back_elsewhere(desk, packets):
    feed = desk.feed(end="never", batch_size=10)
    desk.publish(desk.place(packets[:50]))
    batches = iter(feed)
    seen = rows_of(batches, 50)
    desk.broker.kill()
    port = desk.broker.port
    desk.start_log()
    desk.publish(desk.place(packets[50:90]))

    seen += rows_of(batches, 40)

    assert desk.broker.port != port
    assert sorted(seen) == sorted(event.event_id for event in packets[:90])


def test_a_follower_whose_log_has_ended_reads_what_was_archived_of_it(desk, packets):
    records = desk.place(packets[:80])
    desk.publish(records)
    batches = iter(desk.feed(end="never", batch_size=10))
    seen = rows_of(batches, 80)
    later = desk.place(packets[80:100])
    desk.broker.stop()
    desk.archive([*records, *later])

    seen += rows_of(batches, 20)

    assert sorted(seen) == sorted(event.event_id for event in packets[:100])


def test_a_follower_can_begin_before_the_log_does(tmp_path, desk, packets):
    desk.broker.stop()
    records = desk.place(packets[:30])
    batches = iter(desk.feed(end="never", batch_size=30))
    desk.start_log()

    desk.publish(records)

    assert sorted(rows_of(batches, 30)) == sorted(event.event_id for event in packets[:30])


def test_what_the_log_deleted_comes_from_the_archive_and_a_gap_is_named(desk, packets, caplog):
    records = desk.place(packets)
    desk.publish(records)
    desk.archive([record for record in records if record.offset < 10])
    ends = {record.partition: 20 for record in records}
    asyncio.run(_delete(desk.broker.address, ends))

    with caplog.at_level(logging.WARNING):
        found = desk.ids(desk.feed())

    kept = {record.value for record in records if not 10 <= record.offset < 20}
    assert sorted(found) == sorted(event.event_id for event in packets if event.SerializeToString() in kept)
    assert "esper.runs/0: neither the archive nor the log holds offsets 10 to 19" in caplog.text


def test_what_the_log_has_lost_in_its_middle_is_named(desk, packets, caplog):
    records = desk.place(packets)
    first, later = records[:40], records[40:]
    desk.publish(first)
    desk.broker.kill()
    lost = [record for record in first if record.partition == first[-1].partition][-1]
    (segment,) = (desk.data_dir / "log" / "topics" / "esper.runs" / str(lost.partition)).glob("*.log")
    os.truncate(segment, segment.stat().st_size - 10)  # its last batch
    desk.start_log()
    desk.publish(later)

    with caplog.at_level(logging.WARNING):
        found = desk.ids(desk.feed())

    assert f"esper.runs/{lost.partition}: the log does not hold offsets " in caplog.text
    assert f" to {lost.offset}\n" in caplog.text
    assert set(found) < {event.event_id for event in packets}
    assert set(found) >= {event_pb2.Event.FromString(record.value).event_id for record in later}


async def _delete(address, before):
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.delete_records(
            {TopicPartition("esper.runs", place): RecordsToDelete(before_offset=end) for place, end in before.items()}
        )
    finally:
        await admin.close()


def test_another_log_than_the_states_is_refused(desk, packets):
    desk.archive(desk.place(packets))

    feed = desk.feed(end="never")

    batches = iter(feed)
    with pytest.raises(InvalidInput, match="it is another log"):
        rows_of(batches, len(packets) + 1)


def test_a_pass_up_to_now_needs_a_log_that_answers(desk):
    desk.broker.kill()
    with pytest.raises(LogUnavailable, match=r"the log at 127\.0\.0\.1:\d+ did not answer"):
        iter(desk.feed())

    desk.start_log()
    desk.broker.stop()  # which says that it is gone
    with pytest.raises(LogUnavailable, match=r"no log runs for .*; start one \(`esper up`\)"):
        iter(desk.feed())


def test_a_slow_job_makes_fetching_stop(desk, packets, monkeypatch):
    monkeypatch.setattr("streams.feed.log_reader.FETCH_BYTES", 8_192)
    value = os.urandom(4_000)
    place = ("esper.runs", 0)
    desk.publish([StoredRecord(*place, number, 1, b"", value, ()) for number in range(200)])
    with LogReader(desk.broker.address) as reader:
        reader.connect(["esper.runs"])
        reader.seek(place, 0)
        read = 0
        while read == 0:
            read += sum(len(batches) for batches, _ in reader.take([place], 1.0).values())
        time.sleep(0.5)  # a job that does something else

        assert reader._coming is not None
        ahead = reader._coming.result(5.0)
        assert reader._ready == {}
        assert len(ahead[place][0]) < 100
        until = ahead[place][1]
        while until < 200:
            until = reader.take([place], 1.0).get(place, ([], until))[1]


def test_a_feed_for_a_broker_that_is_named_reads_that_one(desk, packets):
    desk.publish(desk.place(packets[:10]))

    feed = EventFeed(desk.data_dir / "elsewhere", both(desk)[0], end="now", brokers=desk.broker.address)

    assert sorted(desk.ids(feed)) == sorted(event.event_id for event in packets[:10])
