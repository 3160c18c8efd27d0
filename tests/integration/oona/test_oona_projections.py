"""The worker keeps its projections up with the live log, and gives their files back when it ends."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiokafka import TopicPartition

from contracts.leyline.v1 import event_pb2
from contracts.topics import PARTITIONS, RUNS
from projections.archive_writer import Archive
from projections.records import StoredRecord
from projections.registry import PROJECTIONS, file_of, seen
from projections.store import Store, connected
from streams import projection_feed
from streams.consumer import LogConsumer, ends_of
from streams.projection_feed import ProjectionFeed
from streams.records import partition_of
from tests.integration.oona.oona_processes import delete_before

LAG = "esper_projection_lag_records{"
OF_THE_WORKER = [name for name, projection in PROJECTIONS.items() if projection.owner == "worker"]


@pytest.fixture
def lived(writer, events):
    """A run that began and attached a kernel, on the log."""
    for body in (
        event_pb2.RunStarted(task="spirals", policy="random", epochs=3, params_host=10),
        event_pb2.KernelAttached(seed_id="s1", blueprint_id="BP1", artifact_ref="sha256:1"),
    ):
        writer.publish(events.make(body))
    writer.flush()
    return events.run_id


def eventually(question, timeout_s=30.0):
    """Whether an answer comes in time that is not empty."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.1)
    return question()


def test_what_is_said_on_the_log_is_in_its_projections(log, data_dir, start_process, scrape, lived):
    worker = start_process("worker", data_dir, log.address)
    told = eventually(lambda: [line for line in scrape.text(worker).splitlines() if line.startswith(LAG)])
    kept = {name: seen(PROJECTIONS[name], data_dir).state for name in OF_THE_WORKER}
    worker.terminate()

    assert {line.split('"')[1] for line in told} == set(OF_THE_WORKER)
    assert set(kept.values()) == {"kept"}
    # Read as it is: a Store would make it anew where another test has deleted of this log what no archive has.
    with connected(file_of(data_dir, PROJECTIONS["urza"]), read_only=True) as found:
        query = "SELECT run_id FROM attached WHERE run_id = ?"
        assert found.execute(query, [lived]).fetchall() == [(lived,)]


def test_what_the_log_deletes_before_it_is_folded_comes_from_the_archive(
    log, writer, events, ring, metrics, tmp_path, monkeypatch
):
    """The reader of a projection goes on where the log begins; what lay before is nowhere else."""
    place = TopicPartition(RUNS.name, partition_of(events.run_id.encode(), PARTITIONS))
    monkeypatch.setattr(projection_feed, "ARCHIVE_S", 0.2)  # other tests delete records of this log that nobody keeps

    async def fold():
        with Store(PROJECTIONS["urza"], None, ring) as store:
            feed = ProjectionFeed([store], log.address, metrics, archive=tmp_path)
            await feed.catch_up()
            for number in range(3):
                body = event_pb2.KernelAttached(seed_id="s1", blueprint_id="BP1", artifact_ref=f"sha256:{number}")
                writer.publish(events.make(body))
            writer.flush()
            end = (await asyncio.to_thread(ends_of, log.address, (RUNS,)))[place]
            with Archive(tmp_path, ring) as archive:
                archive.append(await on_the_log(log.address, place, end))
            await delete_before(log.address, {place: end - 1})
            await feed.catch_up()
            rows = store.cursor().execute("SELECT artifact_ref FROM attached WHERE run_id = ?", [events.run_id])
            found = sorted(ref for (ref,) in rows.fetchall())
            await feed._disconnect()
            return found

    assert asyncio.run(fold()) == ["sha256:0", "sha256:1", "sha256:2"]


async def on_the_log(address, place, end):
    """The records of a partition, as an archive takes them."""
    consumer = LogConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([place])
    found = []
    while await consumer.position(place) < end:
        for message in (await consumer.getmany(timeout_ms=1_000)).get(place, []):
            at = (message.topic, message.partition, message.offset, message.timestamp)
            found.append(StoredRecord(*at, message.key, message.value, tuple(message.headers)))
    await consumer.stop()
    return found
