"""Nothing acknowledged dies with one broker: three copies, two in sync, and what lacks them is waited for."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from contracts.leyline.v1.event_pb2 import StateDigested
from contracts.topics import RUNS, TOPICS
from esper.cli.up import kept_by
from esper.errors import LogUnavailable
from streams.topics import copies_of, ensure_topics
from streams.writer import LogWriter
from tests.real_kafka import RealKafka


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    kafka = RealKafka(tmp_path_factory.mktemp("kafka"), nodes=3)
    yield kafka
    kafka.stop()


def test_a_log_of_one_broker_is_as_safe_as_its_disk(log):
    kept = asyncio.run(copies_of(log.address))

    assert kept.brokers == 1
    assert set(kept.topics.values()) == {(1, 1)}
    assert kept.frail == []


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_two_of_three_acknowledge_and_with_two_away_it_is_waited(three, ring, metrics, events):
    asyncio.run(ensure_topics(three.address))
    kept = asyncio.run(copies_of(three.address))
    with LogWriter(three.address, ring, producer="trainer", metrics=metrics) as writer:
        three.kill(3)
        writer.publish(events.make(StateDigested()))
        writer.flush(60)  # with one away it goes on
        three.kill(2)
        writer.publish(events.make(StateDigested()))
        with pytest.raises(LogUnavailable, match="enough of them for the copies that must be in sync"):
            writer.flush(5)
        starting = threading.Thread(target=three.start)
        starting.start()
        began = time.monotonic()
        writer.flush(120)  # and once they are back it is there
        starting.join()

    assert set(kept.topics.values()) == {(3, 2)}
    assert len(kept.topics) == len(TOPICS)
    assert time.monotonic() - began < 120


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_doctor_names_topics_of_which_one_copy_acknowledges(three):
    async def as_before():
        admin = AIOKafkaAdminClient(bootstrap_servers=three.address)
        await admin.start()
        settings = {"min.insync.replicas": "1", "message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, RUNS.name, settings)])
        await admin.close()

    three.start()
    asyncio.run(ensure_topics(three.address))
    asyncio.run(as_before())
    verdict, said = kept_by(asyncio.run(copies_of(three.address)))

    assert verdict == "note"
    assert f"may die with one broker of {RUNS.name}: run `kafka-configs" in said
