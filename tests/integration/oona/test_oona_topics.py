"""Topics are made by the admin client before anything else, and a log that would lose history is refused."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from contracts.topics import PARTITIONS, TOPICS
from esper.errors import LogUnavailable
from streams.broker.launch import start_broker
from streams.topics import ensure_topics


@pytest.fixture
def bare_log(tmp_path):
    broker = start_broker(tmp_path, anonymous=True)
    yield broker
    broker.stop()


async def describe(address):
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        topics = {found["topic"]: len(found["partitions"]) for found in await admin.describe_topics()}
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in TOPICS]
        configs = {
            name: {entry[0]: entry[1] for entry in entries}
            for response in await admin.describe_configs(resources)
            for _code, _message, _kind, name, entries in response.resources
        }
    finally:
        await admin.close()
    return topics, configs


async def create(address, name, *, partitions=PARTITIONS, **configs):
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])
    finally:
        await admin.close()


@pytest.mark.requirement("R-TAM-64", "R-OONA-18", "R-OPS-2")
@pytest.mark.asyncio
async def test_every_topic_of_the_table_exists_with_its_partitions_and_retention(bare_log):
    await asyncio.gather(*(ensure_topics(bare_log.address) for _ in range(3)))
    await ensure_topics(bare_log.address)

    topics, configs = await describe(bare_log.address)

    assert topics == {topic.name: PARTITIONS for topic in TOPICS}
    for topic in TOPICS:
        assert configs[topic.name]["retention.ms"] == str(topic.retention_ms)
        assert configs[topic.name]["cleanup.policy"] == "delete"


@pytest.mark.asyncio
async def test_a_topic_with_other_partitions_is_refused_because_it_would_break_a_runs_order(bare_log):
    await create(bare_log.address, "esper.runs", partitions=1)

    with pytest.raises(LogUnavailable, match=r"esper\.runs has 1 partitions and Esper needs 4") as refused:
        await ensure_topics(bare_log.address)

    assert "\n" not in str(refused.value)


@pytest.mark.asyncio
async def test_a_topic_that_forgets_too_soon_is_refused_and_one_that_keeps_longer_is_fine(bare_log):
    await create(bare_log.address, "esper.telemetry", **{"retention.ms": "-1"})
    await ensure_topics(bare_log.address)
    admin = AIOKafkaAdminClient(bootstrap_servers=bare_log.address)
    await admin.start()
    await admin.delete_topics(["esper.runs"])
    await admin.close()
    await create(bare_log.address, "esper.runs", **{"retention.ms": "604800000"})

    with pytest.raises(LogUnavailable, match=r"esper\.runs deletes its records after 604800000 ms: set .* to -1"):
        await ensure_topics(bare_log.address)


@pytest.mark.asyncio
async def test_a_log_that_is_not_there_is_one_line_and_no_long_wait():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"

    async with asyncio.timeout(5.0):
        with pytest.raises(LogUnavailable, match=f"no log answers at {address}") as raised:
            await ensure_topics(address)

    assert "\n" not in str(raised.value)


@pytest.mark.asyncio
async def test_a_port_that_answers_but_is_no_log_is_one_line():
    hung_up = asyncio.Event()

    async def hang(reader, writer):
        await reader.read()
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LogUnavailable, match=f"no log answers at 127.0.0.1:{port}"):
            await ensure_topics(f"127.0.0.1:{port}", timeout_s=1.0)
        await hung_up.wait()
