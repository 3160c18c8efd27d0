"""An archive goes on with the log that it is of, and with no other: what another holds would pass as archived."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from esper.errors import InvalidInput
from projections import manifest
from projections.archive_writer import Archive
from projections.generated import history, records
from projections.records import Batch, StoredRecord
from streams.archive_start import connect
from streams.archiver import ArchiveLoop
from streams.broker.launch import start_broker
from streams.consumer import LogConsumer
from streams.metrics import Metrics
from streams.topics import ensure_topics
from tests.integration.archive.conftest import _publish

COUNT = 60


def made(seed: int) -> list[StoredRecord]:
    return list(records(history(COUNT, seed=seed)))[:COUNT]


async def archived(address: str, folder: Path, upto: int) -> str:
    """Archive what the log at an address has, as the archiver does it; the cluster's id."""
    cluster_id = await ensure_topics(address)
    with Archive(folder) as archive:
        consumer = await connect(address, archive, cluster_id)
        try:
            while sum(archive.manifest.next_offsets.values()) < upto:
                fetched: Iterable[list[Batch]] = (await consumer.getmany(timeout_ms=1_000)).values()
                archive.take([batch for batches in fetched for batch in batches])
        finally:
            await consumer.stop()
        return archive.manifest.cluster_id


async def made_again(address: str) -> None:
    """Every topic deleted and made again."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.delete_topics([name for name in await admin.list_topics() if name.startswith("esper.")])
    finally:
        await admin.close()
    await ensure_topics(address)


def test_a_log_of_as_many_records_is_not_taken_for_the_archives_own(desk, tmp_path: Path):
    """With more records than the archive it was taken for its continuation, and its first ones were never read."""
    folder, many = desk.archive, [record for seed in range(5, 10) for record in made(seed)]
    desk.publish(made(1))
    cluster_id = asyncio.run(archived(desk.broker.address, folder, COUNT))
    desk.publish(made(2))
    assert asyncio.run(archived(desk.broker.address, folder, 2 * COUNT)) == cluster_id  # its own, further on
    before = (folder / manifest.NAME).read_bytes()

    other = start_broker(tmp_path / "other", anonymous=True)
    try:
        asyncio.run(ensure_topics(other.address))
        first, desk.broker = desk.broker, other
        desk.publish(many)
        refused(lambda: archived(other.address, folder, 3 * COUNT), "another record at")
    finally:
        desk.broker = first
        other.stop()
    asyncio.run(made_again(first.address))
    refused(lambda: archived(first.address, folder, 3 * COUNT), "the topic was deleted and made again")
    desk.publish(many)
    refused(lambda: archived(first.address, folder, 3 * COUNT), "another record at")

    assert (folder / manifest.NAME).read_bytes() == before


def refused(act: Callable[[], object], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as caught:
        asyncio.run(act())
    assert "--data-dir" in str(caught.value)


def test_a_log_that_begins_behind_the_archive_and_has_nothing_is_caught_up_with(desk, monkeypatch):
    """No record brought the gap along, and a resume waited in vain for the archive to come to the log's end."""
    monkeypatch.setattr("streams.archiver.IDLE_MS", 100)
    desk.publish(made(1))
    asyncio.run(archived(desk.broker.address, desk.archive, COUNT))

    async def trimmed() -> None:
        stop = asyncio.Event()
        with Archive(desk.archive) as archive:
            consumer = await connect(desk.broker.address, archive)
            consumer.pause(*consumer.assignment())
            await _publish(desk.broker.address, made(2), sign=True, timestamp_ms=None)
            ends = await consumer.end_offsets(list(consumer.assignment()))
            await _trim(desk.broker.address, ends)
            consumer.resume(*consumer.assignment())
            loop = asyncio.create_task(ArchiveLoop(archive, consumer, Metrics(), stop).run())
            async with asyncio.timeout(20):
                while sum(archive.manifest.next_offsets.values()) < 2 * COUNT:  # noqa: ASYNC110  it rings no bell
                    await asyncio.sleep(0.05)
            stop.set()
            await loop
            await consumer.stop()

    asyncio.run(trimmed())
    assert sum(gap.next - gap.first for gap in manifest.load(desk.archive).gaps) == COUNT


async def _trim(address: str, ends: Mapping[TopicPartition, int]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.delete_records({at: RecordsToDelete(end) for at, end in ends.items() if end})
    finally:
        await admin.close()


def test_a_loss_at_the_logs_end_has_a_name_before_a_record_comes_behind_it(desk, monkeypatch):
    """The last batch of a partition is damaged and its `tail` lost: whose offsets those were cannot be known."""
    monkeypatch.setattr("streams.archiver.IDLE_MS", 100)
    desk.publish(made(1))
    desk.broker.stop()
    path = next(path for path in (desk.data_dir / "log").rglob("*.log") if path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    (path.parent / "tail").unlink()
    desk.broker = start_broker(desk.data_dir, anonymous=True)
    at = path.parent.parent.name, int(path.parent.name)

    async def catch_up() -> dict[manifest.Place, int]:
        stop = asyncio.Event()
        with Archive(desk.archive) as archive:
            consumer = await connect(desk.broker.address, archive)
            ends = await consumer.end_offsets(list(consumer.assignment()))
            wanted = {(place.topic, place.partition): end for place, end in ends.items() if end}
            loop = asyncio.create_task(ArchiveLoop(archive, consumer, Metrics(), stop).run())
            async with asyncio.timeout(20):
                while dict(archive.manifest.next_offsets) != wanted:  # noqa: ASYNC110  it rings no bell
                    await asyncio.sleep(0.05)
            stop.set()
            await loop
            await consumer.stop()
        return wanted

    end = asyncio.run(catch_up())[at]
    assert [(gap.topic, gap.partition, gap.next) for gap in manifest.load(desk.archive).gaps] == [(*at, end)]


def test_the_archivers_consumer_is_assigned_once(desk, monkeypatch: pytest.MonkeyPatch):
    """Aiokafka ends a member of a group that is assigned anew while it looks for its coordinator, and so the archiver.

    What the archive's last records are compared with is read by another one.
    """
    desk.publish(made(1))
    asyncio.run(archived(desk.broker.address, desk.archive, COUNT))
    assigned: list[LogConsumer] = []
    assign = LogConsumer.assign
    monkeypatch.setattr(LogConsumer, "assign", lambda self, places: (assigned.append(self), assign(self, places))[1])
    asyncio.run(archived(desk.broker.address, desk.archive, COUNT))

    assert len(assigned) == len({*map(id, assigned)}) == 2
    assert len({consumer._group_id for consumer in assigned}) == 2
