"""Reads a topic from its beginning, or from a time on: first all that is there, then what comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from contracts.topics import Topic
from streams.consumer import LogConsumer
from streams.not_let_in import unavailable
from streams.reader import record_of
from streams.records import Record

POLL_MS: Final = 10_000
"""How long an idle look at the log lasts; a record or a cancellation ends it."""

Handler = Callable[[Record], Awaitable[None]]


class TopicReader:
    """A reader without a group: what is read is folded anew at every start, so there is no position to keep."""

    def __init__(self, brokers: str, topic: Topic, *, since_s: float = 0.0) -> None:
        """`since_s` (Unix seconds) leaves out what came before; 0 leaves out nothing."""
        self._brokers = brokers
        self._since_s = since_s
        self._topic = topic
        self._consumer = LogConsumer(bootstrap_servers=brokers, auto_offset_reset="earliest")

    async def catch_up(self, handler: Handler) -> None:
        """Connect, and hand over every record that is there by now. Raises LogUnavailable where no broker answers."""
        try:
            await self._consumer.start()
        except (KafkaError, OSError) as error:
            await self._consumer.stop()
            raise unavailable(self._brokers, "answer", error) from None
        places = await self._consumer.places(self._topic)
        self._consumer.assign(places)
        ends = await self._consumer.end_offsets(places)
        if self._since_s > 0.0:
            begins = await self._consumer.offsets_since(places, int(1e3 * self._since_s))
            for place in places:
                self._consumer.seek(place, begins.get(place, ends[place]))
        while [each for each in places if await self._consumer.position(each) < ends[each]]:
            await self._hand_over(handler)

    async def ends(self) -> dict[TopicPartition, int]:
        """Where the topic ends now: the offset of the next record of every partition."""
        return await self._consumer.end_offsets(await self._consumer.places(self._topic))

    async def follow(self, handler: Handler) -> None:
        """Hand over what comes, on partitions that are added too, until cancelled."""
        while True:
            await self.next(handler)

    async def next(self, handler: Handler) -> None:
        """Hand over what comes next, or nothing where nothing comes for some time."""
        await self._consumer.take_in_added()
        await self._hand_over(handler)

    async def stop(self) -> None:
        """Disconnect."""
        await self._consumer.stop()

    async def _hand_over(self, handler: Handler) -> None:
        for messages in (await self._consumer.getmany(timeout_ms=POLL_MS, max_records=2_000)).values():
            for message in messages:
                await handler(record_of(message))
