"""An archive goes on with the log that it is of, and with no other: what another holds would pass as archived."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from esper.errors import InvalidInput
from projections import manifest
from projections.archive_writer import Archive
from projections.generated import history, records
from projections.records import Batch, StoredRecord
from streams.archive_start import connect
from streams.broker.launch import start_broker
from streams.topics import ensure_topics

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

    other = start_broker(tmp_path / "other")
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
