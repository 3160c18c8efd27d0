"""Fetches that wait long hold up nobody: neither a partition that was busy nor a question on the same connection."""

from __future__ import annotations

import asyncio
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer.fetcher import Fetcher

from contracts.topics import RUNS
from esper.cli.tail import WRITTEN, LogTail
from esper.leyline.signing import KeyRing
from streams import consumer as reading
from streams.consumer import LogConsumer

LONG_S = 20.0
PLACES = [TopicPartition(RUNS.name, 0), TopicPartition(RUNS.name, 1)]


def test_a_partition_that_was_busy_is_not_held_up_by_a_fetch_of_an_idle_one(monkeypatch, own_log):
    """Aiokafka fetches the idle partition alone once the records of the other one lie about for a tenth of a second."""
    monkeypatch.setattr(reading, "LONG_WAIT_MS", int(1_000 * LONG_S))

    async def scenario():
        producer = AIOKafkaProducer(bootstrap_servers=own_log.address)
        consumer = LogConsumer(bootstrap_servers=own_log.address, urgent=True, auto_offset_reset="earliest")
        await producer.start()
        await consumer.start()
        try:
            consumer.assign(PLACES)
            await producer.send_and_wait(RUNS.name, b"first", partition=0)
            await asyncio.sleep(1.0)  # it was fetched, and nobody takes it
            assert (await consumer.getone()).value == b"first"
            await producer.send_and_wait(RUNS.name, b"second", partition=0)
            began = time.monotonic()
            message = await asyncio.wait_for(consumer.getone(), 2 * LONG_S)
            return message.value, time.monotonic() - began
        finally:
            await consumer.stop()
            await producer.stop()

    value, waited_s = asyncio.run(scenario())

    assert value == b"second"
    assert waited_s < LONG_S / 2


def test_a_request_that_ends_as_the_fetcher_wakes_is_not_taken_for_one_under_way(monkeypatch, own_log):
    """A group's consumer begins so: it is put in its place while aiokafka still asks where that is."""
    monkeypatch.setattr(reading, "LOOK_AGAIN_MS", int(1_000 * LONG_S))

    async def scenario():
        producer = AIOKafkaProducer(bootstrap_servers=own_log.address)
        consumer = LogConsumer(bootstrap_servers=own_log.address, urgent=True, auto_offset_reset="earliest")
        await producer.start()
        await consumer.start()
        asked = consumer._fetcher._update_fetch_positions

        async def and_then_sought(*about):
            await asked(*about)
            consumer.seek(PLACES[0], 0)  # wakes the fetcher, which comes to look just when this has ended
            await asyncio.sleep(0)

        monkeypatch.setattr(consumer._fetcher, "_update_fetch_positions", and_then_sought)
        try:
            await producer.send_and_wait(RUNS.name, b"first", partition=0)
            consumer.assign(PLACES[:1])
            return (await asyncio.wait_for(consumer.getone(), LONG_S / 2)).value
        finally:
            await consumer.stop()
            await producer.stop()

    assert asyncio.run(scenario()) == b"first"


def test_a_question_is_answered_while_a_fetch_waits(monkeypatch, own_log):
    """As when a run ends and asks where the log does."""
    monkeypatch.setattr(reading, "LONG_WAIT_MS", int(1_000 * LONG_S))

    async def scenario():
        consumer = LogConsumer(bootstrap_servers=own_log.address, auto_offset_reset="earliest")
        await consumer.start()
        try:
            consumer.assign(PLACES)
            await consumer.getmany(timeout_ms=500)
            began = time.monotonic()
            ends = await consumer.end_offsets(PLACES)
            return ends, time.monotonic() - began
        finally:
            await consumer.stop()

    ends, waited_s = asyncio.run(scenario())

    assert ends == dict.fromkeys(PLACES, 0)
    assert waited_s < LONG_S / 2


def test_a_runs_tail_says_at_once_where_the_log_ends(own_log):
    """Aiokafka waits before it asks again about a topic that it has not heard of: no topic of a run's is one."""
    tail = LogTail(own_log.address, KeyRing((b"1" * 32,)), ["a run"])
    try:
        tail._consumer._fetcher._retry_backoff = LONG_S
        ends = tail.ends(LONG_S / 2)
        assert {topic for topic, _ in ends} == {topic.name for topic in WRITTEN}
        assert {*ends.values()} == {0}
    finally:
        tail.close()


def test_another_consumer_of_the_same_process_stays_aiokafkas_own(own_log):
    """A person's program that reads our feed may have consumers of its own, which must raise where theirs raise."""

    async def scenario():
        ours = LogConsumer(bootstrap_servers=own_log.address)
        theirs = AIOKafkaConsumer(bootstrap_servers=own_log.address)
        await ours.start()
        await theirs.start()
        try:
            return type(ours._fetcher), type(theirs._fetcher)
        finally:
            await ours.stop()
            await theirs.stop()

    assert asyncio.run(scenario()) == (reading.PatientFetcher, Fetcher)
