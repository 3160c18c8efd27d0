"""Reading the log in bulk: the garbage collector and the memory of a process that does, and a stretch of the log.

The consumer is `LogConsumer(batches=True)`: aiokafka makes a record, a second one of it and three generator steps for
each; with what the garbage collector does about them that was a third of the archiver's time. Reading whole batches
costs 0.8 µs a record instead of 3.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping

import pyarrow as pa
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from projections.manifest import Place
from projections.records import Batch, Unreadable
from streams.consumer import LogConsumer
from streams.not_let_in import unavailable


def read_in_batches() -> None:
    """Make this process one that reads the log in bulk.

    Records are many objects and no cycles: walking them again and again doubled what one costs. And Arrow's own memory
    pool gives back what the next flush asks for again, which cost 1.5 µs a record in page faults.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    pa.set_memory_pool(pa.system_memory_pool())


def stretches(brokers: str, wanted: Mapping[Place, tuple[int, int]]) -> list[Batch | Unreadable]:
    """What the log holds of offsets `[first, next)` of some partitions; raises LogUnavailable where none answers."""
    try:
        return asyncio.run(_stretches(brokers, wanted))
    except (KafkaError, OSError) as error:
        raise unavailable(brokers, "give what is to be repaired", error) from None


async def _stretches(brokers: str, wanted: Mapping[Place, tuple[int, int]]) -> list[Batch | Unreadable]:
    consumer = LogConsumer(bootstrap_servers=brokers, batches=True, auto_offset_reset="earliest")
    try:
        await consumer.start()
        places = {TopicPartition(*place): bounds for place, bounds in wanted.items()}
        consumer.assign(list(places))
        begins, ends = await consumer.beginning_offsets(list(places)), await consumer.end_offsets(list(places))
        for place, (first, _) in places.items():
            consumer.seek(place, max(first, begins[place]))
        found: list[Batch | Unreadable] = []
        left = set(places)
        while left:
            for place in sorted(left):
                if await consumer.position(place) >= min(places[place][1], ends[place]):
                    left.remove(place)
                    consumer.pause(place)
            if left:
                for batches in (await consumer.getmany(*left, timeout_ms=200)).values():
                    found += batches
        return found
    finally:
        await consumer.stop()
