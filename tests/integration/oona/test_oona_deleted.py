"""A reader whose place the log has deleted goes on with what is left, not at the end, where it would miss all that."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from contracts.topics import BLUEPRINTS, PARTITIONS, RUNS
from esper.cli.tail import LogTail
from esper.leyline.signing import KeyRing
from esper.urza.cache import KernelCache
from streams.background import LoopThread
from streams.prefetch import Prefetch
from streams.records import partition_of
from streams.topic_reader import TopicReader
from streams.writer import LogWriter
from tests.integration.oona.oona_processes import delete_before

RING = KeyRing((b"1" * 32,))


@contextlib.contextmanager
def of_tail(address, _metrics, _objects):
    tail = LogTail(address, RING, ["a run"])
    tail._following.cancel()
    yield tail._thread, tail._consumer, TopicPartition(RUNS.name, partition_of(b"a run", PARTITIONS))
    tail.close()


@contextlib.contextmanager
def of_forge(address, _metrics, _objects):
    thread = LoopThread("forge")

    async def connected():
        reader = TopicReader(address, BLUEPRINTS)
        await reader.catch_up(lambda _record: asyncio.sleep(0))
        return reader

    reader = thread.run(connected(), 20)
    yield thread, reader._consumer, TopicPartition(BLUEPRINTS.name, 0)
    thread.run(reader.stop(), 20)
    thread.stop()


@contextlib.contextmanager
def of_prefetch(address, metrics, objects):
    with LogWriter(address, RING, producer="trainer", metrics=metrics) as writer:
        prefetch = Prefetch(writer, RING, KernelCache(objects, time.monotonic), run_id="a run", metrics=metrics)
        prefetch.close()
        connected = prefetch._connected()
        yield writer.thread, writer.thread.run(connected.__aenter__(), 20), TopicPartition(BLUEPRINTS.name, 0)
        writer.thread.run(connected.__aexit__(None, None, None), 20)


@pytest.mark.parametrize("reader", [of_tail, of_forge, of_prefetch])
def test_a_reader_whose_place_is_deleted_goes_on_with_what_is_left(reader, own_log, metrics, objects):
    async def write(place):
        async with AIOKafkaProducer(bootstrap_servers=own_log.address) as producer:
            for number in range(5):
                await producer.send_and_wait(place.topic, b"%d" % number, partition=place.partition)
        await delete_before(own_log.address, {place: 3})

    async def read(consumer, place):
        consumer.seek(place, 1)  # where it was when the log deleted that
        return [(await consumer.getone(place)).value for _ in range(2)]

    with reader(own_log.address, metrics, objects) as (thread, consumer, place):
        asyncio.run(write(place))
        assert thread.run(read(consumer, place), 20) == [b"3", b"4"]
