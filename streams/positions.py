"""Where the log ends: asked once, by a client that comes and goes."""

from __future__ import annotations

import asyncio
from typing import Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from contracts.topics import COMMANDS, PARTITIONS, RUNS, Topic
from esper.errors import LogUnavailable
from projections.manifest import Place
from streams.consumer import LogConsumer

TIMEOUT_S: Final = 10.0


def ends_of(brokers: str, topics: tuple[Topic, ...] = (RUNS, COMMANDS)) -> dict[Place, int]:
    """The offsets of the next records of every partition of `topics`; raises LogUnavailable where no broker answers."""
    try:
        return asyncio.run(asyncio.wait_for(_ends(brokers, topics), TIMEOUT_S))
    except (KafkaError, OSError, TimeoutError) as error:
        raise LogUnavailable(f"no log answers at {brokers}: {str(error) or type(error).__name__}") from None


async def _ends(brokers: str, topics: tuple[Topic, ...]) -> dict[Place, int]:
    consumer = LogConsumer(bootstrap_servers=brokers)
    await consumer.start()
    try:
        places = [TopicPartition(topic.name, number) for topic in topics for number in range(PARTITIONS)]
        ends = await consumer.end_offsets(places)
    finally:
        await consumer.stop()
    return {(place.topic, place.partition): offset for place, offset in ends.items()}
