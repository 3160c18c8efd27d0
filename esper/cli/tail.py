"""Follows the events of a few runs on the log, from now on, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from contracts.topics import COMMANDS, EMERGENCY, REPORTS, RUNS, TELEMETRY, Topic
from esper.errors import LogUnavailable
from esper.leyline.envelope import Event
from esper.leyline.signing import KeyRing
from projections.manifest import Place
from streams.background import LoopThread
from streams.consumer import LogConsumer
from streams.not_let_in import no_log
from streams.reader import record_of
from streams.records import Refused, verified

CONNECT_S: Final = 15.0
CLOSE_S: Final = 0.5
FOLLOWED: Final = (RUNS, COMMANDS, REPORTS)
"""What is shown. Telemetry is for the archive."""
WRITTEN: Final = (RUNS, COMMANDS, REPORTS, TELEMETRY, EMERGENCY)
"""What is keyed by a run, and so lies on the run's partition."""


class LogTail:
    """Started at construction: every event of `run_ids` that is written afterwards comes out of `take`.

    `partitions` are those of runs that began before. Raises LogUnavailable where no broker answers. A broker that goes
    away later is waited for.
    """

    def __init__(
        self,
        brokers: str,
        ring: KeyRing,
        run_ids: Iterable[str],
        partitions: Mapping[str, int | None] = MappingProxyType({}),
    ) -> None:
        self._brokers = brokers
        self._ring = ring
        self._run_ids = frozenset(run_ids)
        self._partitions = partitions
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._since_ns = time.time_ns()
        self._thread = LoopThread("log-tail")
        try:
            self._consumer = self._thread.run(self._connect(), CONNECT_S)
        except (KafkaError, OSError, TimeoutError) as error:
            self._thread.stop()
            raise no_log(brokers, error) from None
        self._following = self._thread.spawn(self._follow())

    def take(self, timeout_s: float) -> Event | None:
        """The next event; None where none comes within `timeout_s`."""
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def ends(self, timeout_s: float) -> dict[Place, int]:
        """Where the log ends now, for every topic and partition that the runs write to: offsets of the next records.

        Raises LogUnavailable where the log does not say so within `timeout_s`.
        """
        try:
            return self._thread.run(self._ends(), timeout_s)
        except TimeoutError:
            raise LogUnavailable(f"the log at {self._brokers} does not say where it ends") from None

    def close(self) -> None:
        """Disconnect and end the thread; a log that does not answer is left without a word."""
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            self._thread.run(self._disconnect(), CLOSE_S)
        self._thread.stop()

    async def _connect(self) -> LogConsumer:
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that restarts is no news for a person
        consumer = LogConsumer(bootstrap_servers=self._brokers, auto_offset_reset="earliest")
        try:
            await consumer.start()
            places = await self._places(consumer, FOLLOWED)
            self._written = await self._places(consumer, WRITTEN)
            consumer.assign(places)
            await consumer.seek_to_end(*places)
            for place in places:
                await consumer.position(place)
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    async def _places(self, consumer: LogConsumer, topics: tuple[Topic, ...]) -> list[TopicPartition]:
        found = set()
        for run_id in self._run_ids:
            found.update(await consumer.places_of(run_id.encode(), *topics, partition=self._partitions.get(run_id)))
        return sorted(found)

    async def _follow(self) -> None:
        while True:
            try:
                record = record_of(await self._consumer.getone())
            except KafkaError:
                await asyncio.sleep(0.1)
                continue
            event = verified(record, self._ring, since_ns=self._since_ns)
            if not isinstance(event, Refused) and event.run_id in self._run_ids:
                self._events.put(event)

    async def _ends(self) -> dict[Place, int]:
        while True:
            try:
                ends = await self._consumer.end_offsets(self._written)
            except (KafkaError, OSError):
                await asyncio.sleep(0.1)  # the broker is being started again
            else:
                return {(place.topic, place.partition): offset for place, offset in ends.items()}

    async def _disconnect(self) -> None:
        self._following.cancel()
        await self._consumer.stop()
