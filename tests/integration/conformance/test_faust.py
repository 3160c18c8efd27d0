"""A Faust agent as Esper's workers use it: bytes in, bytes out, at least once, no tables."""

from __future__ import annotations

import asyncio
import contextlib

import faust
import pytest
from aiokafka import AIOKafkaProducer

pytestmark = pytest.mark.asyncio
PARTITIONS = 4


@contextlib.asynccontextmanager
async def worker(brokers, app_id, topic, seen):
    """A Faust app in this loop with one agent that notes what it sees."""
    app = faust.App(
        app_id,
        broker=f"kafka://{brokers}",
        store="memory://",
        web_enabled=False,
        topic_partitions=PARTITIONS,
        topic_replication_factor=1,
        topic_disable_leader=True,
        stream_wait_empty=False,
        broker_heartbeat_interval=0.5,
        broker_session_timeout=10.0,
        broker_commit_interval=0.2,
        producer_linger=0.0,
        processing_guarantee="at_least_once",
    )
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    source = app.topic(topic, partitions=PARTITIONS, **raw)

    @app.agent(source)
    async def note(stream):
        async for value in stream:
            seen.append(value)

    app.finalize()
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


async def until(condition, timeout_s=20.0):
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - Faust tells nobody when an event is done
            await asyncio.sleep(0.05)


@pytest.mark.requirement("R-OONA-25")
@pytest.mark.filterwarnings("default")  # Faust and mode warn about their own use of Python
async def test_an_agent_reads_everything_and_goes_on_after_a_restart(brokers, new_topic, group_id):
    topic = new_topic(PARTITIONS)
    producer = AIOKafkaProducer(bootstrap_servers=brokers, linger_ms=0, enable_idempotence=True)
    await producer.start()
    try:
        seen: list[bytes] = []
        async with worker(brokers, group_id, topic, seen):
            for number in range(100):
                await producer.send_and_wait(topic, b"%d" % number, key=b"%d" % (number % 7))
            await until(lambda: len(seen) >= 100)
            await asyncio.sleep(1.0)  # a few commit intervals
        assert sorted(map(int, seen)) == list(range(100))
        for number in range(100, 120):
            await producer.send_and_wait(topic, b"%d" % number, key=b"%d" % (number % 7))
        again: list[bytes] = []
        async with worker(brokers, group_id, topic, again):
            await until(lambda: {int(value) for value in again} >= set(range(100, 120)))
        assert len(again) < 120, "the second worker did not begin where the first had committed"
    finally:
        await producer.stop()
