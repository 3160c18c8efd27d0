"""Where a consumer group begins of which the log knows no offsets: at its beginning, or at what is recent."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from contracts.topics import RUNS
from esper.leyline.signing import KeyRing
from projections.registry import PROJECTIONS
from projections.store import Store
from streams.app import FaustConsumer
from streams.projection_feed import ProjectionFeed

PLACES = [TopicPartition(RUNS.name, number) for number in range(3)]
RECENT_S = 0.5


@pytest.mark.parametrize(("recent_s", "begins"), [(None, [0, 0, 0]), (RECENT_S, [3, 2, 0])], ids=["all", "recent"])
def test_a_group_without_offsets_begins_where_somebody_still_waits(own_log, recent_s, begins):
    """After a week without a decider Kafka has forgotten its group's: it answered every packet there ever was."""

    async def scenario():
        async with AIOKafkaProducer(bootstrap_servers=own_log.address) as producer:
            for place in (PLACES[0], PLACES[0], PLACES[0], PLACES[1], PLACES[1]):
                await producer.send_and_wait(place.topic, b"old", partition=place.partition)
            await asyncio.sleep(2 * RECENT_S)
            await producer.send_and_wait(RUNS.name, b"new", partition=0)
            consumer = FaustConsumer(bootstrap_servers=own_log.address, group_id="some", recent_s=recent_s)
            await consumer.start()
            consumer.assign(PLACES)
            await consumer.seek_to_committed(*PLACES)
            found = [await consumer.position(place) for place in PLACES]
            await producer.send_and_wait(RUNS.name, b"later", partition=2)
            later = await consumer.getone(PLACES[2])
            await consumer.stop()
            return found, later.value

    assert asyncio.run(scenario()) == (begins, b"later")


def test_a_long_log_is_folded_for_so_long_and_the_rest_beside(own_log, metrics):
    """The library of a new data folder on a log that others wrote to for years: its worker was never ready."""

    async def scenario():
        async with AIOKafkaProducer(bootstrap_servers=own_log.address) as producer:
            await producer.send_and_wait(RUNS.name, b"one", partition=0)
        with Store(PROJECTIONS["urza"], None, KeyRing((b"1" * 32,))) as store:
            feed = ProjectionFeed([store], own_log.address, metrics)
            await feed.catch_up(0.0)
            before = dict(store.next_offsets)
            await feed.catch_up()
            await feed._disconnect()
            return before, store.next_offsets

    before, after = asyncio.run(scenario())

    assert before.get((RUNS.name, 0), 0) == 0
    assert after[RUNS.name, 0] == 1
