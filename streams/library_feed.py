"""Keeps Urza's catalogue up with the log: plain aiokafka from where the projection ends, never a consumer group.

The position is the projection's own, committed with its rows. So a deleted projection is made again from the beginning,
and nothing that a group committed elsewhere can make it miss an event.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from contracts.topics import PARTITIONS
from projections.library import URZA, Library, LibraryReader
from projections.store import Taken
from streams.metrics import Metrics
from streams.producer import unavailable

POLL_MS: Final = 50
BATCH: Final = 2_000
RETRY_S: Final = 1.0

logger = logging.getLogger(__name__)


class LibraryFeed:
    """Folds the log into `library`, which from now on belongs to this feed's thread. Others read through `reader`."""

    def __init__(self, library: Library, brokers: str, metrics: Metrics) -> None:
        self._library = library
        self._brokers = brokers
        self._metrics = metrics
        self._owner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="library")
        self._counter = library.reader()
        self._readers = [self._counter]
        self._consumer: AIOKafkaConsumer | None = None

    def reader(self) -> LibraryReader:
        """A view of what is folded, for a thread of its own; closed when `keep` ends."""
        self._readers.append(self._library.reader())
        return self._readers[-1]

    async def catch_up(self) -> None:
        """Fold all that is on the log now. Raises LogUnavailable where it does not answer."""
        try:
            consumer = await self._connected()
            ends = await consumer.end_offsets(list(consumer.assignment()))
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                await self._step(consumer)
        except (KafkaError, OSError) as error:
            raise unavailable(self._brokers, "give the library its events", error) from None

    async def keep(self) -> None:
        """Fold what comes, until cancelled; a log that is away is asked again. Then the file is given back."""
        try:
            while True:
                try:
                    await self._step(await self._connected())
                except (KafkaError, OSError) as error:
                    logger.warning("the library waits for the log: %r", error)
                    await self._disconnect()
                    await asyncio.sleep(RETRY_S)
        finally:
            await self._disconnect()
            for close in (*[reader.close for reader in self._readers], self._library.close):
                self._owner.submit(close)
            self._owner.shutdown(wait=True)

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        fetched = await consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH)
        records: list[Any] = list(chain.from_iterable(fetched.values()))
        if not records:
            return
        taken = await self._own(records)
        if taken.refused:
            logger.warning("the library left out records: %s", dict(taken.refused))

    async def _own(self, records: list[Any]) -> Taken:
        def take() -> tuple[Taken, int]:
            return self._library.take(records), self._counter.count()

        taken, versions = await asyncio.get_running_loop().run_in_executor(self._owner, take)
        self._metrics.set("esper_urza_library_versions", versions)
        return taken

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self._brokers,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=POLL_MS,
            )
            try:
                await consumer.start()
                await self._seek(consumer)
            except BaseException:
                await consumer.stop()
                raise
            self._consumer = consumer
        return self._consumer

    async def _seek(self, consumer: AIOKafkaConsumer) -> None:
        """Go to where the projection ends. A log that ends before that is another one: then begin anew."""
        places = [TopicPartition(topic.name, number) for topic in URZA.sources for number in range(PARTITIONS)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        begins = await consumer.beginning_offsets(places)
        if any(self._library.next_offsets.get((each.topic, each.partition), 0) > ends[each] for each in places):
            logger.warning("the log ends before the library does, so it is another log: the library is made anew")
            await asyncio.get_running_loop().run_in_executor(self._owner, self._library.clear)
        for each in places:
            consumer.seek(each, max(begins[each], self._library.next_offsets.get((each.topic, each.partition), 0)))

    async def _disconnect(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()
