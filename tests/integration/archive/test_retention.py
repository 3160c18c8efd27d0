"""The log drops nothing that the archive has not got, however long the archiver is away or how often it is killed."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

from aiokafka import AIOKafkaConsumer, TopicPartition

from contracts.topics import PARTITIONS, TELEMETRY
from projections import manifest
from projections.generated import history, records
from projections.manifest import covered
from streams.broker.launch import start_broker

LONG_AGO_MS = 1_600_000_000_000
EVERY = [TopicPartition(TELEMETRY.name, number) for number in range(PARTITIONS)]


async def bounds(address: str) -> tuple[dict[int, int], dict[int, int]]:
    """First and next offset of every partition of the telemetry."""
    consumer = AIOKafkaConsumer(bootstrap_servers=address)
    await consumer.start()
    try:
        first, end = await consumer.beginning_offsets(EVERY), await consumer.end_offsets(EVERY)
    finally:
        await consumer.stop()
    return tuple({place.partition: at for place, at in each.items()} for each in (first, end))


def age(desk):
    """What is on the log came long ago. The log goes by its own time; one that starts, by its files' last change.

    It looks for what is old before it serves anybody.
    """
    desk.broker.stop()
    for segment in (desk.data_dir / "log" / "topics").glob("*/*/*.log"):
        os.utime(segment, (LONG_AGO_MS / 1000, LONG_AGO_MS / 1000))
    desk.broker = start_broker(desk.data_dir, port=desk.broker.port, anonymous=True)


def test_expired_records_wait_for_the_archive(desk):
    """Telemetry is kept for a day. Records that came years ago stay until they are archived, and then go."""
    made = [record for record in records(history(4_000)) if record.topic == TELEMETRY.name]
    offsets: dict[int, int] = {}
    sent = []
    for record in made:
        offset = offsets.get(record.partition, 0)
        offsets[record.partition] = offset + 1
        sent.append(replace(record, offset=offset))
    half = len(sent) // 2
    desk.publish(sent[:half])
    age(desk)
    first, end = asyncio.run(bounds(desk.broker.address))
    assert set(first.values()) == {0}
    assert sum(end.values()) == half

    process = desk.start()
    desk.wait_for(lambda: desk.archived() > 0)
    process.kill()  # whatever it had archived by then, and whether or not the log has heard of it
    process.wait()
    desk.publish(sent[half:])
    age(desk)
    first, end = asyncio.run(bounds(desk.broker.address))
    held = covered(desk.archive)
    assert all(at <= held.get((TELEMETRY.name, number), 0) for number, at in first.items())
    assert sum(end.values()) == len(sent)

    desk.start()
    desk.wait_for(lambda: desk.archived() == len(sent))
    desk.wait_for(lambda: len(set(map(str, asyncio.run(bounds(desk.broker.address))))) == 1)  # the log is empty

    places = desk.places()
    assert len({row[:3] for row in places}) == len(places) == len(sent)
    assert manifest.load(desk.archive).gaps == ()
