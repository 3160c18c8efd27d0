"""What was acknowledged is there after any kind of end, once."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import random
import socket

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import CorruptRecordException

from streams.broker.batch import header
from streams.broker.launch import start_broker


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_everything_outlives_the_process(host, batch_of, end):
    broker = host.start()
    raw = host.connect(broker)
    raw.create("t", 2, retention_ms="60000")
    assert raw.produce("t", batch_of(b"a", b"b", producer=(5, 0, 0))).base_offset == 0
    position = {"partition_index": 0, "committed_offset": 1, "committed_metadata": "note"}
    topics = [{"name": "t", "partitions": [position]}]
    assert raw.ask(8, 7, group_id="g", generation_id_or_member_epoch=-1, member_id="", topics=topics).topics
    getattr(broker, end)()

    raw = host.connect(host.start())
    stored = raw.fetch("t", 0)
    assert (stored.high_watermark, stored.records.count(b"\x02a"), stored.records.count(b"\x02b")) == (2, 1, 1)
    found = raw.ask(9, 5, group_id="g", topics=[{"name": "t", "partition_indexes": [0, 1]}]).topics[0].partitions
    assert [(p.committed_offset, p.metadata) for p in found] == [(1, "note"), (-1, "")]
    again = raw.produce("t", batch_of(b"a", b"b", producer=(5, 0, 0)))
    assert (again.error_code, again.base_offset) == (0, 0), "a batch sent again must not be stored twice"
    following = raw.produce("t", batch_of(b"c", producer=(5, 0, 2)))
    assert (following.error_code, following.base_offset) == (0, 2)
    gap = raw.produce("t", batch_of(b"d", producer=(5, 0, 9)))
    assert gap.error_code.name == "out_of_order_sequence_number"


def test_producer_ids_are_never_given_twice(host):
    given = set()
    for end in ("stop", "kill", "stop"):
        broker = host.start()
        raw = host.connect(broker)
        for _ in range(3):
            answer = raw.ask(22, 1, transactional_id=None, transaction_timeout=dt.timedelta(0))
            assert answer.error_code == 0
            assert answer.producer_id not in given
            given.add(answer.producer_id)
        getattr(broker, end)()
    assert len(given) == 9


def test_a_torn_tail_is_cut_and_its_offset_not_given_again(host, batch_of):
    broker = host.start()
    raw = host.connect(broker)
    raw.create("t")
    for number in range(3):
        raw.produce("t", batch_of(b"%d" % number))
    broker.kill()
    (segment,) = (host.data_dir / "log" / "topics" / "t" / "0").glob("*.log")
    segment.write_bytes(segment.read_bytes()[:-3])
    raw = host.connect(host.start())
    assert raw.fetch("t", 0).high_watermark == 3  # offset 2 was given
    assert header(raw.fetch("t", 2).records).next_offset == 3, "a client passes over it"
    assert raw.produce("t", batch_of(b"new")).base_offset == 3
    assert "unfinished bytes at the end cut off" in host.said()


@pytest.mark.asyncio
async def test_a_damaged_segment_fails_loudly_in_the_client_and_the_rest_is_readable(host):
    """The aiokafka consumer raises instead of waiting for ever, and can seek past."""
    broker = host.start()
    host.connect(broker).create("t", segment_bytes="1024")
    producer = AIOKafkaProducer(bootstrap_servers=broker.address, linger_ms=0)
    await producer.start()
    for number in range(20):
        await producer.send_and_wait("t", b"%04d" % number * 100)
    await producer.stop()
    broker.stop()
    segments = sorted((host.data_dir / "log" / "topics" / "t" / "0").glob("*.log"))
    damaged, following = segments[1], int(segments[2].stem)
    data = bytearray(damaged.read_bytes())
    data[70:90] = bytes(20)
    damaged.write_bytes(data)

    broker = host.start()
    place = TopicPartition("t", 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([place])
        read: list[int] = []
        with pytest.raises(CorruptRecordException):
            await asyncio.wait_for(read_on(consumer, read), 20)
        assert read == list(range(int(damaged.stem)))
        consumer.seek(place, following)
        async with asyncio.timeout(20):
            rest = [(await consumer.getone()).offset for _ in range(following, 20)]
        assert rest == list(range(following, 20))
    finally:
        await consumer.stop()
    assert f"{damaged}: bytes 0 to " in host.said()
    assert "are lost, the rest is readable" in host.said()


async def read_on(consumer, offsets):
    """Notes offsets until the consumer raises."""
    while True:
        offsets.append((await consumer.getone()).offset)


async def produce_through_kills(data_dir, kills, listening):
    """Kills the broker at random moments under an idempotent producer; the values that were acknowledged, in order."""
    broker = start_broker(data_dir, fd=listening.fileno(), anonymous=True)
    address = broker.address
    producer = AIOKafkaProducer(
        bootstrap_servers=address, linger_ms=0, enable_idempotence=True, request_timeout_ms=10_000, retry_backoff_ms=20
    )
    await producer.start()
    acknowledged, stop = [], asyncio.Event()

    async def write():
        for number in itertools.count():
            if stop.is_set():
                return
            await producer.send_and_wait("t", b"%d" % number, partition=0)
            acknowledged.append(number)

    writing = asyncio.create_task(write())
    moments = random.Random(kills)
    try:
        for _ in range(kills):
            await asyncio.sleep(moments.uniform(0.05, 0.3))
            broker.kill()
            broker = await asyncio.to_thread(_keep, data_dir, listening)
        await asyncio.sleep(0.2)
        stop.set()
        await asyncio.wait_for(writing, 20)
    finally:
        writing.cancel()
        await producer.stop()
    return broker, acknowledged


def _keep(data_dir, listening):
    """Started from a pool thread, which lives as long as the loop."""
    return start_broker(data_dir, fd=listening.fileno(), anonymous=True)


async def read_all(address):
    consumer = AIOKafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        place = TopicPartition("t", 0)
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        found = []
        async with asyncio.timeout(30):
            while await consumer.position(place) < end:
                for messages in (await consumer.getmany(timeout_ms=500)).values():
                    found += messages
        return found
    finally:
        await consumer.stop()


@pytest.mark.asyncio
@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
async def test_kill_minus_nine_loses_and_doubles_nothing(host, kills):
    """Every acknowledged record is in the log, once and in order."""
    setup = host.start()
    host.connect(setup).create("t")
    setup.stop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        broker, acknowledged = await produce_through_kills(host.data_dir, kills, listening)
        try:
            found = await read_all(broker.address)
        finally:
            assert broker.stop() == 0
    values = [int(message.value) for message in found]
    offsets = [message.offset for message in found]
    assert len(acknowledged) > 10 * kills
    assert values[: len(acknowledged)] == acknowledged
    assert len(values) == len(set(values)) <= len(acknowledged) + 1
    assert offsets == sorted(set(offsets))
