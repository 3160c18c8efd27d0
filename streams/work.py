"""The topic of work for synchronous code: what was asked for and who trains it, read by everyone; claims, written.

Every worker reads all of the topic, from where the group of workers has come to: before that lies no request that is
not over. The group holds that position alone, and nobody is its member: a run takes an hour, and an assignment of
partitions would tie it to whoever has its partition meanwhile (`docs/decisions/0019-a-run-is-claimed-not-assigned.md`).
What the group lags behind is what waits and what is trained now.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError

from contracts.topics import FLEET_GROUP, WORK
from esper.errors import LogUnavailable
from esper.leyline.envelope import Event
from esper.leyline.signing import KeyRing
from esper.record.work import Work
from streams.access import prefix_of
from streams.background import LoopThread
from streams.consumer import LogConsumer
from streams.metrics import Metrics
from streams.not_let_in import no_log
from streams.producer import Publisher
from streams.reader import record_of
from streams.records import Refused, verified
from streams.topics import closed

CONNECT_S: Final = 15.0
PUBLISH_S: Final = 30.0
CLOSE_S: Final = 2.0
POLL_MS: Final = 200
RETRY_S: Final = 0.5
ADDED_S: Final = 2.0
"""How often it is looked whether somebody has added partitions: a worker that says there that it lives must be heard
before its lease is over."""

Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)


class WorkLog:
    """Started at construction, and followed until `close`. Raises LogUnavailable where no broker answers.

    A broker that goes away later is waited for.
    """

    def __init__(self, brokers: str, ring: KeyRing, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._brokers = brokers
        self._ring = ring
        self._monotonic = monotonic
        self._work = Work()
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._ends: dict[TopicPartition, int] = {}
        self._at: dict[TopicPartition, int] = {}
        self._thread = LoopThread("work-log")
        self._publisher = Publisher(brokers, ring, Metrics())
        try:
            self._consumer = self._thread.run(self._connect(), CONNECT_S)
        except (KafkaError, OSError, TimeoutError) as error:
            self._thread.stop()
            if isinstance(error, GroupAuthorizationFailedError):
                raise closed(prefix_of(brokers) + FLEET_GROUP) from None
            raise no_log(brokers, error) from None
        self._following = self._thread.spawn(self._follow())

    @contextlib.contextmanager
    def look(self) -> Iterator[Work]:
        """What is known of all requests; it stands still meanwhile."""
        with self._changed:
            yield self._work

    def wait_for(self, ready: Callable[[Work], Answer], timeout_s: float) -> Answer:
        """What `ready` says of it, once that is true or the time is over; it is asked again at every event."""
        with self._changed:
            return self._changed.wait_for(lambda: ready(self._work), timeout_s)

    def caught_up(self, timeout_s: float) -> bool:
        """Whether all that lay on the topic at the beginning is known, given so much time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all(self._at[place] >= end for place, end in self._ends.items()), timeout_s
            )

    def publish(self, events: Sequence[Event], timeout_s: float = PUBLISH_S) -> None:
        """Write events and wait until the log has them; raises LogUnavailable where it does not.

        What is said of a run lies behind its request, on the same partition, so that all who read take it in the same
        order: also where somebody has added partitions since.
        """
        with self.look() as work:
            asked = {event.run_id: work.runs[event.run_id].place[0] for event in events if event.run_id in work.runs}
        by_partition: dict[int | None, list[Event]] = {}
        for event in events:
            by_partition.setdefault(asked.get(event.run_id), []).append(event)
        with self._writing:  # a publisher that begins anew does so once
            try:
                for partition, those in by_partition.items():
                    self._thread.run(self._publisher.publish(those, partition), timeout_s)
            except TimeoutError:
                raise LogUnavailable(f"the log at {self._brokers} does not take what was written") from None

    def commit(self) -> None:
        """Have the log keep up to where all requests are over; where it does not, the next one does."""
        with self._changed:
            positions = {place.partition: at for place, at in self._at.items()}
            begins = self._work.begins(list(positions), positions)
        offsets = {TopicPartition(WORK.name, partition): offset for partition, offset in begins.items()}
        with contextlib.suppress(KafkaError, TimeoutError):
            self._thread.run(self._consumer.commit(offsets), CLOSE_S)

    def close(self) -> None:
        """Disconnect; a log that does not answer is left without a word."""
        self._following.cancel()
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            self._thread.run(self._disconnect(), CLOSE_S)
        self._thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Everything below runs on the background loop.

    async def _connect(self) -> LogConsumer:
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that restarts is no news for a person
        group = prefix_of(self._brokers) + FLEET_GROUP
        consumer = LogConsumer(
            bootstrap_servers=self._brokers, group_id=group, urgent=True, auto_offset_reset="earliest"
        )
        try:
            await consumer.start()
            places = await consumer.places(WORK)
            self._ends = await consumer.end_offsets(places)
            begins = await consumer.beginning_offsets(places)
            consumer.assign(places)
            for place in places:
                self._at[place] = max(await consumer.committed(place) or 0, begins[place])
                consumer.seek(place, self._at[place])
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    async def _follow(self) -> None:
        while True:
            try:
                await self._consumer.take_in_added(ADDED_S)
                fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
                positions = {place: await self._consumer.position(place) for place in self._consumer.assignment()}
            except KafkaError as error:
                logger.warning("reading the topic of work failed, trying again: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            found = []
            for place, messages in fetched.items():
                for message in messages:
                    event = verified(record_of(message), self._ring)
                    if isinstance(event, Refused):
                        logger.warning("%s refused: %s", record_of(message).place, event.detail)
                    else:
                        found.append((event, (place.partition, message.offset)))
            if found or positions != self._at:
                with self._changed:
                    for event, at in found:
                        self._work.apply(event, at, self._monotonic())
                    self._at = positions
                    self._changed.notify_all()

    async def _disconnect(self) -> None:
        await asyncio.gather(self._publisher.stop(), self._consumer.stop())
