"""Throughput and round trips of the embedded log, beside raw file writes and the price of fdatasync.

    python -m tests.bench.broker [--messages 200000] [--round-trips 1000]

One broker process, one client process, one partition, payloads of 100 to 300 random bytes (mean 200). "interval" syncs
every half second (the default), "always" before every acknowledgement (topic config flush.messages=1). Client,
benchmark and broker share the machine, so look at ratios and at several runs; single runs differ by 30 %.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streams.broker.launch import BrokerProcess, start_broker
from tests.bench.table import Row

Rate = tuple[float, float]
"""Messages and MB a second."""


def say(line: str) -> None:
    """One row of the table, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def payloads(count: int) -> list[bytes]:
    """Values that do not compress, drawn from a fixed seed."""
    source = random.Random(1)
    return [source.randbytes(source.randint(100, 300)) for _ in range(count)]


def rate(values: Sequence[bytes], seconds: float) -> Rate:
    """Messages and MB a second."""
    return len(values) / seconds, sum(map(len, values)) / seconds / 1e6


def raw_write(values: Sequence[bytes], folder: Path) -> Rate:
    """The same bytes, in chunks of 64 KiB, to a plain file, with one fdatasync at the end."""
    data = b"".join(values)
    began = time.perf_counter()
    with (folder / "raw").open("wb", buffering=0) as file:
        for start in range(0, len(data), 65536):
            file.write(data[start : start + 65536])
        os.fdatasync(file.fileno())
    return rate(values, time.perf_counter() - began)


def fdatasync_ms(folder: Path, times: int = 300) -> list[float]:
    """Milliseconds of single fdatasyncs after writes of 4 KiB."""
    taken = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(times):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1e3)
    return taken


def topic(broker: BrokerProcess, name: str, *, always: bool) -> str:
    """A new topic of one partition."""
    configs = {"flush.messages": "1"} if always else {}
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.create_topics([NewTopic(name, 1, 1, config=configs)])[name].result(10)
    return name


def librdkafka_produce(broker: BrokerProcess, name: str, values: Sequence[bytes], options: dict[str, object]) -> Rate:
    """Bulk, acks=all, until every delivery is acknowledged."""
    settings = {"bootstrap.servers": broker.address, "linger.ms": 5, "queue.buffering.max.messages": 2_000_000}
    producer = Producer(settings | options)
    began = time.perf_counter()
    for value in values:
        producer.produce(name, value, partition=0)
        producer.poll(0)
    assert producer.flush(60) == 0
    return rate(values, time.perf_counter() - began)


def librdkafka_consume(broker: BrokerProcess, name: str, values: Sequence[bytes]) -> Rate:
    """Everything from the start, in lists of 5,000."""
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "bench", "auto.offset.reset": "earliest"})
    from confluent_kafka import TopicPartition as Place

    consumer.assign([Place(name, 0, 0)])
    began, seen = time.perf_counter(), 0
    while seen < len(values):
        seen += len(consumer.consume(5000, 5.0))
    taken = time.perf_counter() - began
    consumer.close()
    return rate(values, taken)


async def aiokafka_produce(broker: BrokerProcess, name: str, values: Sequence[bytes]) -> Rate:
    """Batches of 64 KiB, 5 ms linger, idempotent."""
    producer = AIOKafkaProducer(
        bootstrap_servers=broker.address, linger_ms=5, max_batch_size=65536, enable_idempotence=True
    )
    await producer.start()
    began = time.perf_counter()
    futures = [await producer.send(name, value, partition=0) for value in values]
    await asyncio.gather(*futures)
    produced = rate(values, time.perf_counter() - began)
    await producer.stop()
    return produced


async def aiokafka_consume(broker: BrokerProcess, name: str, values: Sequence[bytes]) -> Rate:
    """getmany(5000) from the start."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.address, auto_offset_reset="earliest", fetch_max_wait_ms=100)
    await consumer.start()
    consumer.assign([TopicPartition(name, 0)])
    began, seen = time.perf_counter(), 0
    while seen < len(values):
        seen += sum(len(found) for found in (await consumer.getmany(timeout_ms=1000, max_records=5000)).values())
    consumed = rate(values, time.perf_counter() - began)
    await consumer.stop()
    return consumed


async def aiokafka_acknowledged(broker: BrokerProcess, name: str, values: Sequence[bytes], *, at_once: int) -> Rate:
    """send_and_wait from `at_once` tasks."""
    producer = AIOKafkaProducer(bootstrap_servers=broker.address, linger_ms=0, enable_idempotence=True)
    await producer.start()
    rest = iter(values)

    async def one_after_another() -> None:
        for value in rest:
            await producer.send_and_wait(name, value, partition=0)

    began = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    taken = time.perf_counter() - began
    await producer.stop()
    return rate(values, taken)


async def round_trips_ms(broker: BrokerProcess, name: str, count: int, gap_s: float) -> list[float]:
    """Milliseconds from send to the consumer's hand, one message every `gap_s`."""
    producer = AIOKafkaProducer(bootstrap_servers=broker.address, linger_ms=0, enable_idempotence=True)
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.address, fetch_max_wait_ms=100)
    await producer.start()
    await consumer.start()
    place = TopicPartition(name, 0)
    consumer.assign([place])
    await consumer.seek_to_end(place)
    await consumer.position(place)
    taken = []

    async def receive() -> None:
        for _ in range(count):
            message = await consumer.getone()
            taken.append((time.perf_counter() - float(message.value)) * 1e3)

    receiver = asyncio.create_task(receive())
    for _ in range(count):
        await producer.send(name, repr(time.perf_counter()).encode(), partition=0)
        await asyncio.sleep(gap_s)
    await receiver
    await producer.stop()
    await consumer.stop()
    return taken


def quantiles(values: list[float]) -> str:
    """p50 and p99."""
    ordered = sorted(values)
    return f"p50 {statistics.median(ordered):.2f} ms, p99 {ordered[int(len(ordered) * 0.99)]:.2f} ms"


def cpu_s(broker: BrokerProcess) -> float:
    """Seconds of processor time that the broker has used: what a busy machine does not distort."""
    used = psutil.Process(broker.pid).cpu_times()
    return used.user + used.system


def measure(broker: BrokerProcess, values: Sequence[bytes], raw: Rate, round_trips: int, *, always: bool) -> None:
    """One column of the table, printed as rows; `raw` is the yardstick."""
    label = "always" if always else "interval"

    def new(what: str) -> str:
        return topic(broker, f"{label}-{what}", always=always)

    spent = cpu_s(broker)

    def show(what: str, measured: Rate, messages: int = len(values)) -> None:
        nonlocal spent
        now = cpu_s(broker)
        cost = f"{(now - spent) / messages * 1e6:6.2f} us/msg of broker CPU"
        spent = now
        ratio = f"{measured[1] / raw[1]:5.2f} of raw, {cost}"
        say(f"{label:9} {what:42} {measured[0]:>10,.0f} msg/s {measured[1]:7.1f} MB/s  {ratio}")

    for what, options in (
        ("plain", {}),
        ("idempotent", {"enable.idempotence": True}),
        ("lz4", {"compression.type": "lz4"}),
    ):
        show(f"librdkafka produce, {what}", librdkafka_produce(broker, new(f"rd-{what}"), values, dict(options)))
    show("librdkafka consume", librdkafka_consume(broker, f"{label}-rd-plain", values))
    name = new("aio")
    show("aiokafka produce, 64 KiB batches", asyncio.run(aiokafka_produce(broker, name, values)))
    show("aiokafka getmany", asyncio.run(aiokafka_consume(broker, name, values)))
    few = values[: len(values) // 50]
    one = asyncio.run(aiokafka_acknowledged(broker, new("one"), few, at_once=1))
    show("aiokafka send_and_wait, one by one", one, len(few))
    many = asyncio.run(aiokafka_acknowledged(broker, new("many"), values[: len(values) // 4], at_once=64))
    show("aiokafka send_and_wait, 64 tasks", many, len(values) // 4)
    for gap_ms in (2, 20):
        count = round_trips if gap_ms == 2 else round_trips // 5
        taken = asyncio.run(round_trips_ms(broker, new(f"rtt-{gap_ms}"), count, gap_ms / 1000))
        say(f"{label:9} round trip, one message every {gap_ms:2} ms (n={count}):  {quantiles(taken)}")


def rows(*, full: bool = False) -> list[Row]:
    """Bulk throughput beside raw file writes, synced every half second."""
    values = payloads(200_000 if full else 50_000)
    with tempfile.TemporaryDirectory() as folder:
        raw = raw_write(values, Path(folder))
        broker = start_broker(Path(folder), anonymous=True)
        try:
            name = topic(broker, "bulk", always=False)
            name_aio = topic(broker, "bulk-aio", always=False)
            rates = {
                "librdkafka produce": librdkafka_produce(broker, name, values, {"enable.idempotence": True}),
                "librdkafka consume": librdkafka_consume(broker, name, values),
                "aiokafka produce": asyncio.run(aiokafka_produce(broker, name_aio, values)),
                "aiokafka consume": asyncio.run(aiokafka_consume(broker, name_aio, values)),
            }
        finally:
            broker.stop()
    fixture = f"{len(values):,} messages of 200 B"
    return [
        Row("raw file writes", raw[1], "MB/s", f"{fixture}, 64 KiB a write, one fdatasync"),
        *(
            Row(
                f"broker: {what}", each[1], "MB/s", f"{fixture}, {each[0]:,.0f} a second, {each[1] / raw[1]:.2f} of raw"
            )
            for what, each in rates.items()
        ),
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=200_000, help="per bulk row (default 200,000: 40 MB)")
    parser.add_argument("--round-trips", type=int, default=1_000, help="at 2 ms; a fifth of it at 20 ms")
    options = parser.parse_args()
    values = payloads(options.messages)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = raw_write(values, folder)
        say(f"raw file writes of 64 KiB, one fdatasync at the end: {raw[1]:,.0f} MB/s")
        say(f"fdatasync after 4 KiB: {quantiles(fdatasync_ms(folder))}")
        broker = start_broker(folder, anonymous=True)
        try:
            for always in (False, True):
                measure(broker, values, raw, options.round_trips, always=always)
            process = psutil.Process(broker.pid)
            say(f"broker: {process.memory_info().rss / 2**20:.0f} MiB RSS, {cpu_s(broker):.1f} CPU-s in all")
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
