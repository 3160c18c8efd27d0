"""The one way to write to the log: an idempotent aiokafka producer that signs what it sends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, UnknownTopicOrPartitionError

from contracts.topics import EMERGENCY
from esper.leyline.envelope import Event
from esper.leyline.signing import KeyRing
from streams.access import credentials, prefix_of
from streams.metrics import Metrics
from streams.not_let_in import unavailable
from streams.records import Outgoing, headers_of, outgoing, partition_of

BATCH_BYTES: Final = 64 * 1024
MADE_S: Final = 5.0
"""How long a topic may take to be known everywhere after somebody made it."""


class LogProducer(AIOKafkaProducer):  # type: ignore[misc]
    """A producer in the running loop: every replica acknowledges, no duplicates, no waiting for company."""

    def __init__(self, brokers: str, *, request_timeout_s: float) -> None:
        super().__init__(
            bootstrap_servers=brokers,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=int(request_timeout_s * 1000),
            **credentials(brokers),
        )
        self._prefix = prefix_of(brokers)
        self._topics: dict[str, tuple[str, int]] = {}
        self._counts: dict[str, int] = {}
        """Of topics as they are called on the log: how many partitions were seen last."""

    async def topic(self, name: str) -> tuple[str, int]:
        """What one of our topics is called on this log, and how many partitions it has.

        Asked once: where somebody adds partitions, a run stays on its own for as long as this process lives.
        """
        found = self._topics.get(name)
        if found is None:
            there = self._prefix + name
            count = self._counts[there] = await self._count(there)
            found = self._topics[name] = (there, count)
        return found

    async def has(self, there: str, partition: int) -> bool:
        """Whether a topic that was asked for has a partition; somebody may have added it since."""
        if partition >= self._counts[there]:
            await self.client.force_metadata_update()
            self._counts[there] = len(await self.partitions_for(there))
        return partition < self._counts[there]

    async def _count(self, there: str) -> int:
        deadline = time.monotonic() + MADE_S
        while True:
            try:
                return len(await self.partitions_for(there))
            except UnknownTopicOrPartitionError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
                await self.client.force_metadata_update()


async def send(
    producer: LogProducer, ring: KeyRing, record: Outgoing, partition: int | None = None
) -> asyncio.Future[Any]:
    """Sign and hand over one record; the returned future is done when the log acknowledged it.

    Without a `partition` it is that of the record's key; also on a log that has no such partition.
    """
    topic, partitions = await producer.topic(record.topic)
    if partition is None or not await producer.has(topic, partition):
        partition = partition_of(record.key, partitions)
    return await producer.send(  # type: ignore[no-any-return]
        topic,
        record.payload,
        key=record.key,
        partition=partition,
        headers=headers_of(ring.sign(record.payload)),
    )


async def close_producer(producer: LogProducer, timeout_s: float) -> None:
    """Send what waits and disconnect, but give up on a log that does not take it within `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            await producer.stop()
    except TimeoutError:
        # aiokafka has no public way to stop without every batch being acknowledged or expired.
        producer._message_accumulator.fail_all(KafkaTimeoutError())  # noqa: SLF001
        await producer._sender.close()  # noqa: SLF001
        await producer.client.close()


async def publish_once(brokers: str, ring: KeyRing, events: Sequence[Event], partition: int | None = None) -> None:
    """Write events with a producer of their own and wait until the log has them all: what a person says, now and then.

    Raises as `Publisher.publish` does.
    """
    publisher = Publisher(brokers, ring, Metrics())
    try:
        await publisher.publish(events, partition)
    finally:
        await publisher.stop()


class Publisher:
    """A producer for processes that live in one asyncio loop. A producer that broke is replaced at the next call."""

    def __init__(self, brokers: str, ring: KeyRing, metrics: Metrics, *, request_timeout_s: float = 10.0) -> None:
        self.brokers = brokers
        self._ring = ring
        self._metrics = metrics
        self._request_timeout_s = request_timeout_s
        self._producer: LogProducer | None = None

    async def start(self) -> None:
        """Connect; raises LogUnavailable where no broker answers."""
        producer = LogProducer(self.brokers, request_timeout_s=self._request_timeout_s)
        try:
            await producer.start()
        except (KafkaError, OSError) as error:
            await producer.stop()
            raise unavailable(self.brokers, "answer", error) from None
        self._producer = producer

    async def stop(self) -> None:
        """Send what waits and disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await close_producer(producer, timeout_s=1.0)

    async def publish(self, events: Sequence[Event], partition: int | None = None) -> None:
        """Write events in this order and wait until the log has them all.

        An answer goes where the run that asked reads: on the `partition` that the question came from, whatever this
        process or that one knows of partitions that were added since.

        Raises LogUnavailable where it does not acknowledge; then some may be on the log and a repetition is harmless,
        because consumers know events by their ids. Raises ContractViolation for an event that is too large.
        """
        records = [outgoing(event) for event in events]
        if self._producer is None:
            await self.start()
        assert self._producer is not None
        try:
            await asyncio.gather(*[await send(self._producer, self._ring, record, partition) for record in records])
        except KafkaError as error:
            await self.stop()
            raise unavailable(self.brokers, "take what was written", error) from None
        for record in records:
            self._metrics.count("esper_oona_publish_total", topic=record.topic)
            if record.topic == EMERGENCY.name:
                self._metrics.count("esper_oona_emergency_published_total")

    async def warm_up(self, topics: Sequence[str]) -> None:
        """Learn where the partitions are, so that the first event needs no metadata request; raises LogUnavailable."""
        assert self._producer is not None
        try:
            for topic in topics:
                await self._producer.topic(topic)
        except KafkaError as error:
            await self.stop()
            raise unavailable(self.brokers, "know its topics", error) from None

    async def answers(self, timeout_s: float = 1.0) -> bool:
        """Whether the log answers a metadata request in time."""
        if self._producer is None:
            return False
        try:
            return bool(await asyncio.wait_for(self._producer.client.force_metadata_update(), timeout_s))
        except (KafkaError, OSError, TimeoutError):
            return False
