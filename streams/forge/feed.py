"""The blueprints' topic from its beginning: first all that is there, then whatever comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from contracts.topics import BLUEPRINTS, PARTITIONS
from streams.consumer import LogConsumer
from streams.producer import unavailable
from streams.reader import record_of
from streams.records import Record

POLL_MS: Final = 10_000
"""How long an idle look at the log lasts; a record or a cancellation ends it."""

_PLACES: Final = [TopicPartition(BLUEPRINTS.name, number) for number in range(PARTITIONS)]

Take = Callable[[Record], Awaitable[None]]


class Feed:
    """A reader without a group: the jobs' state is folded anew at every start, so there is no position to keep."""

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers
        self._consumer = LogConsumer(bootstrap_servers=brokers, auto_offset_reset="earliest")

    async def catch_up(self, take: Take) -> None:
        """Connect, and hand over every record that is there by now. Raises LogUnavailable where no broker answers."""
        try:
            await self._consumer.start()
        except (KafkaError, OSError) as error:
            await self._consumer.stop()
            raise unavailable(self._brokers, "answer", error) from None
        self._consumer.assign(_PLACES)
        ends = await self._consumer.end_offsets(_PLACES)
        while [place for place in _PLACES if await self._consumer.position(place) < ends[place]]:
            await self._hand_over(take)

    async def ends(self) -> dict[TopicPartition, int]:
        """Where the topic ends now: the offset of the next record of every partition."""
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(_PLACES)
        return ends

    async def follow(self, take: Take) -> None:
        """Hand over what comes, until cancelled."""
        while True:
            await self._hand_over(take)

    async def stop(self) -> None:
        """Disconnect."""
        await self._consumer.stop()

    async def _hand_over(self, take: Take) -> None:
        for messages in (await self._consumer.getmany(timeout_ms=POLL_MS, max_records=2_000)).values():
            for message in messages:
                await take(record_of(message))
