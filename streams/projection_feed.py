"""Keeps projections up with the log: plain aiokafka from where they end, never a consumer group.

The position is the projection's own, committed with its rows. So a deleted projection is made again from the beginning,
and nothing that a group committed elsewhere can make it miss an event.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from esper.errors import CorruptState
from projections.manifest import Place, covered
from projections.registry import follow_what_the_log_lost
from projections.store import Store
from streams.consumer import LOOK_FOR_MORE_S, LogConsumer
from streams.metrics import Metrics
from streams.not_let_in import unavailable

POLL_MS: Final = 1_000
"""How long an idle look at the log lasts; a record or a cancellation ends it."""
BATCH: Final = 10_000
"""Records of one transaction. Each makes the kept tables anew, so a long log is folded in few: half the time that by
2,000 it took at four thousand runs, and less the longer it is."""
RETRY_S: Final = 1.0
ARCHIVE_S: Final = 10.0
"""How long what the log has lost is waited for: the archiver may be starting, or behind."""
LOOK_S: Final = 0.1
CATCH_UP_S: Final = 10.0
"""How long a process begins for its projections' sake. On a log that others wrote to for long a new data folder has all
of it to fold: the library has no kernel meanwhile that others stored, which costs a run time and changes nothing."""

logger = logging.getLogger(__name__)


class Closable(Protocol):
    """What is lent for as long as the feed keeps the projections."""

    def close(self) -> None:
        """Give it back."""


Reader = TypeVar("Reader", bound=Closable)


class ProjectionFeed:
    """Folds the log into `stores`, which from now on belong to this feed's thread; `after` is called there when it did.

    Others read through what is lent to them. What the log has lost and a store lacks comes from the `archive`.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        brokers: str,
        metrics: Metrics,
        after: Callable[[], None] = lambda: None,
        archive: Path | None = None,
    ) -> None:
        self._stores = stores
        self._archive = archive
        self._brokers = brokers
        self._metrics = metrics
        self._after = after
        self._owner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="projections")
        self._lent: list[Closable] = []
        self._consumer: LogConsumer | None = None
        self._next: dict[TopicPartition, int] = {}
        self._looked_at = time.monotonic()
        self._known: list[TopicPartition] = []
        """Every partition of the topics that the projections are of, as the log has them."""

    def lend(self, reader: Reader) -> Reader:
        """`reader`, a view of one of the stores; closed when `keep` ends."""
        self._lent.append(reader)
        return reader

    async def catch_up(self, within_s: float = math.inf) -> None:
        """Fold all that is on the log now, or what can be in some seconds; `keep` comes to the rest.

        Raises LogUnavailable where it does not answer.
        """
        deadline = time.monotonic() + within_s
        try:
            consumer = await self._connected()
            ends = await consumer.end_offsets(list(consumer.assignment()))
            while to_go := sum([max(0, end - await consumer.position(place)) for place, end in ends.items()]):
                if time.monotonic() >= deadline:
                    logger.warning("the projections have %d records of the log to go, and go on beside the rest", to_go)
                    break
                await self._step(consumer)
        except (KafkaError, OSError) as error:
            raise unavailable(self._brokers, "give the projections their events", error) from None

    async def keep(self) -> None:
        """Fold what comes, until cancelled; a log that is away is asked again. Then the files are given back."""
        try:
            while True:
                try:
                    await self._step(await self._connected())
                    if self._consumer is not None and time.monotonic() - self._looked_at > LOOK_FOR_MORE_S:
                        self._looked_at = time.monotonic()
                        if await self._consumer.has_grown():
                            logger.warning("partitions were added to the log's topics: the projections read them, too")
                            await self._disconnect()
                except (KafkaError, OSError) as error:
                    logger.warning("the projections wait for the log: %r", error)
                    await self._disconnect()
                    await asyncio.sleep(RETRY_S)
        finally:
            await self._disconnect()
            for lent in (*self._lent, *self._stores):
                self._owner.submit(lent.close)
            self._owner.shutdown(wait=True)

    async def _step(self, consumer: LogConsumer) -> None:
        fetched = await consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH)
        records: list[Any] = list(chain.from_iterable(fetched.values()))
        jumped = {place: each[0].offset for place, each in fetched.items() if each[0].offset > self._next[place]}
        self._next |= {place: each[-1].offset + 1 for place, each in fetched.items()}
        if jumped:  # deleted before it came here, damaged, or given to nobody
            await self._follow_archive(jumped)
        if records:
            await asyncio.get_running_loop().run_in_executor(self._owner, self._take, records)
        for store in self._stores:
            self._metrics.set(
                "esper_projection_lag_records", self._behind(store, consumer), projection=store.projection.name
            )

    def _take(self, records: list[Any]) -> None:
        for store in self._stores:
            topics = {topic.name for topic in store.projection.sources}
            taken = store.take([record for record in records if record.topic in topics])
            if taken.refused:
                logger.warning("projection %s left out records: %s", store.projection.name, dict(taken.refused))
        self._after()

    async def _connected(self) -> LogConsumer:
        if self._consumer is None:
            consumer = LogConsumer(bootstrap_servers=self._brokers, auto_offset_reset="earliest")
            try:
                await consumer.start()
                await self._seek(consumer)
            except BaseException:
                await consumer.stop()
                raise
            self._consumer = consumer
        return self._consumer

    async def _seek(self, consumer: LogConsumer) -> None:
        """Go to where the first projection ends. One that is ahead of the log is of another log: it begins anew."""
        topics = {topic.name: topic for store in self._stores for topic in store.projection.sources}
        places = self._known = sorted(await consumer.places(*topics.values()))
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        begins = await consumer.beginning_offsets(places)
        for store in self._stores:
            if any(_position(store, place) > ends[place] for place in self._places(store)):
                logger.warning(
                    "the log ends before projection %s does, so it is another log: it is made anew",
                    store.projection.name,
                )
                await asyncio.get_running_loop().run_in_executor(self._owner, store.clear)
        await self._follow_archive(begins)
        for place in places:
            first = min(_position(store, place) for store in self._stores if place in self._places(store))
            self._next[place] = max(begins[place], first)
            consumer.seek(place, self._next[place])

    async def _follow_archive(self, begins: Mapping[TopicPartition, int]) -> None:
        """Have from the archive what the log has no more before `begins`, once the archive has come so far."""
        if self._archive is None:
            return
        lacking = {
            (place.topic, place.partition): begin
            for place, begin in begins.items()
            if any(place in self._places(store) and _position(store, place) < begin for store in self._stores)
        }
        waited_s = 0.0
        while not _holds(self._archive, lacking):
            if waited_s >= ARCHIVE_S:
                for store in self._stores:
                    store.distrust("the archive lacks what the log has lost")
                break
            await asyncio.sleep(LOOK_S)
            waited_s += LOOK_S
        if lacking:
            await asyncio.get_running_loop().run_in_executor(self._owner, self._fold_archive, self._archive, lacking)

    def _fold_archive(self, archive: Path, there: Mapping[Place, int]) -> None:
        for store in self._stores:
            try:
                taken = follow_what_the_log_lost(store, archive, there)
            except CorruptState as error:
                logger.warning("projection %s lacks what the log has lost: %s", store.projection.name, error)
            else:
                if taken.folded:
                    logger.warning(
                        "projection %s took %d events from the archive, which the log has no more",
                        store.projection.name,
                        taken.folded,
                    )

    def _behind(self, store: Store, consumer: LogConsumer) -> int:
        """How many records the log has beyond the store, as far as the last fetch told."""
        ends = ((place, consumer.highwater(place)) for place in self._places(store))
        return sum(max(0, end - _position(store, place)) for place, end in ends if end is not None)

    def _places(self, store: Store) -> list[TopicPartition]:
        topics = {topic.name for topic in store.projection.sources}
        return [place for place in self._known if place.topic in topics]

    async def _disconnect(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()


def _holds(archive: Path, begins: Mapping[Place, int]) -> bool:
    """Whether all before `begins` is archived; a manifest that is lost is being made again."""
    try:
        ends = covered(archive)
    except CorruptState:
        return not begins
    return all(ends.get(place, 0) >= begin for place, begin in begins.items())


def _position(store: Store, place: TopicPartition) -> int:
    return store.next_offsets.get((place.topic, place.partition), 0)
