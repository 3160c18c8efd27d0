"""Verified reading: an `Intake` for agents that handle and retry, and `tail` for those who only look.

A record passes only with a good signature; a bad one is dropped, counted, and told of by a SecurityViolation. A handler
that fails is tried three times, then the record goes to the dead-letter topic with the cause. A fold never gives up a
fact: it stops following that run and says so (rulings 3 and 24). The ids of what is said are derived from the record's
place on the log, so that a redelivery, or a second consumer, says it once.

"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.topics import COMMANDS, DEADLETTER, EMERGENCY, REPORTS, RUNS, TELEMETRY, Topic
from esper.errors import LogUnavailable
from esper.leyline import ids
from esper.leyline.envelope import MAX_EVENT_BYTES, Event, new_event
from esper.leyline.signing import KeyRing
from streams.consumer import LogConsumer
from streams.metrics import Metrics
from streams.not_let_in import unavailable
from streams.producer import Publisher
from streams.records import LOG_APPEND_TIME, Record, Refused, signed_of, verified, verified_history
from streams.refusals import Refusals

CAUSE_CHARACTERS: Final = 2_000
RECORD_BYTES: Final = MAX_EVENT_BYTES - 8 * 1024
"""A dead letter must itself fit into an event; the rest of a longer record can be read at the place it names."""
ATTEMPTS: Final = 3
RETRY_PAUSES_S: Final = (0.05, 0.2)
LOG_PAUSE_S: Final = 1.0
RUN_TOPICS: Final = (RUNS, COMMANDS, REPORTS, EMERGENCY, TELEMETRY)
MALFORMED: Final = "malformed"
Handler = Callable[[Event, Record], Awaitable[None]]
logger = logging.getLogger(__name__)


def violation(record: Record, refused: Refused, *, producer: str, run_id: str = "") -> Event:
    """The event that says that a record's signature does not hold."""
    return new_event(
        event_pb2.SecurityViolation(
            reason=refused.reason, topic=record.topic, detail=f"{record.place}: {refused.detail}"
        ),
        event_id=ids.derived_id(record.place.encode(), "oona.security"),
        run_id=run_id,
        producer=producer,
        recorded_at_ns=time.time_ns(),
        priority=leyline_pb2.MESSAGE_PRIORITY_CRITICAL,
    )


def dead_letter(record: Record, *, handler: str, cause: str, attempts: int, producer: str, run_id: str = "") -> Event:
    """The event that gives a record up for one handler."""
    assert record.topic != DEADLETTER.name
    return new_event(
        event_pb2.DeadLettered(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            attempts=attempts,
            handler=handler,
            cause=cause[:CAUSE_CHARACTERS],
            record=record.signed.payload[:RECORD_BYTES],
        ),
        event_id=ids.derived_id(record.place.encode(), f"oona.deadletter.{handler}"),
        run_id=run_id,
        producer=producer,
        recorded_at_ns=time.time_ns(),
        priority=leyline_pb2.MESSAGE_PRIORITY_HIGH,
    )


def halted(record: Record, event: Event, *, handler: str, cause: str, attempts: int) -> Event:
    """The event by which a fold says that it stopped at a fact of a run, which is never dead-lettered (ruling 3)."""
    packet = leyline_pb2.TelemetryPacket(
        packet_id=event.event_id.hex(),
        source_subsystem=handler,
        level=leyline_pb2.TELEMETRY_LEVEL_ERROR,
        events=[
            leyline_pb2.TelemetryEvent(
                event_id="fold_halted",
                description=f"{handler} stopped following the run at {record.place} after {attempts} attempts: "
                f"{cause[:CAUSE_CHARACTERS]}",
                level=leyline_pb2.TELEMETRY_LEVEL_ERROR,
            )
        ],
    )
    return new_event(
        packet,
        event_id=ids.derived_id(event.event_id, f"oona.halted.{handler}"),
        run_id=event.run_id,
        producer=handler,
        recorded_at_ns=time.time_ns(),
        causation_id=event.event_id,
        priority=leyline_pb2.MESSAGE_PRIORITY_HIGH,
    )


class Intake:
    """How one agent takes records: verify, handle, retry, give up. `name` is what events of its own call it.

    `fold=True` says that the handler folds facts into a state, so that a failing fact halts its run instead.
    `history=True` says that it is given a topic from its beginning, whose old records a retired key may have signed.
    """

    def __init__(
        self,
        name: str,
        ring: KeyRing,
        publisher: Publisher,
        metrics: Metrics,
        handler: Handler,
        *,
        fold: bool = False,
        history: bool = False,
    ) -> None:
        self.name = name
        self.halted: set[str] = set()
        self._ring = ring
        self._publisher = publisher
        self._metrics = metrics
        self._handler = handler
        self._fold = fold
        self._refusals = Refusals()
        self._summing: asyncio.Task[None] | None = None
        self._verified = verified_history if history else verified

    async def take(self, record: Record) -> None:
        """Handle one record to its end, whatever that is; raises nothing but cancellation.

        It returns only when everything that the record caused is acknowledged, so its offset may be committed then.
        """
        event = self._verified(record, self._ring)
        if isinstance(event, Refused):
            await self._refuse(record, event)
            return
        if self._fold and event.run_id in self.halted and record.topic == RUNS.name:
            return
        cause = await self._attempt(event, record)
        if cause is not None:
            await self._give_up(event, record, cause)
        self._metrics.count("esper_oona_consume_total", topic=record.topic)
        latency_s = max(0.0, time.time() - record.timestamp_ms / 1000)
        self._metrics.observe("esper_oona_consume_latency_seconds", latency_s, topic=record.topic)

    async def _attempt(self, event: Event, record: Record) -> str | None:
        """None once the handler succeeded, else why it failed for the last time. A log that is away is no failure."""
        cause = ""
        for attempt in range(ATTEMPTS):
            try:
                await self._with_log(lambda: self._handler(event, record))
            except Exception as error:
                logger.exception("%s failed at %s, attempt %d", self.name, record.place, attempt + 1)
                cause = f"{type(error).__name__}: {error}"
            else:
                return None
            if attempt < ATTEMPTS - 1:
                self._metrics.count("esper_oona_retry_total", handler=self.name)
                await asyncio.sleep(RETRY_PAUSES_S[attempt])
        return cause

    async def _give_up(self, event: Event, record: Record, cause: str) -> None:
        if self._fold and record.topic == RUNS.name:
            self.halted.add(event.run_id)
            notice = halted(record, event, handler=self.name, cause=cause, attempts=ATTEMPTS)
            await self._with_log(lambda: self._publisher.publish([notice]))
            return
        await self._dead_letter(record, cause, ATTEMPTS, event.run_id)

    async def _refuse(self, record: Record, refused: Refused) -> None:
        """A bad signature is dropped and told of; bytes that are validly signed but no event can never be handled.

        Of many bad signatures one is told of by itself and the others by their number.
        """
        if refused.reason == MALFORMED:
            logger.warning("%s refused %s: %s, %s", self.name, record.place, refused.reason, refused.detail)
            await self._dead_letter(record, refused.detail, 1, "")
            return
        self._metrics.count("esper_security_signature_fail_total", topic=record.topic, reason=refused.reason)
        if not self._refusals.first(record, refused.reason):
            if self._summing is None or self._summing.done():
                self._summing = asyncio.create_task(self._sum_up())
            return
        logger.warning("%s refused %s: %s, %s", self.name, record.place, refused.reason, refused.detail)
        event = violation(record, refused, producer=self.name)
        await self._with_log(lambda: self._publisher.publish([event]))

    async def _sum_up(self) -> None:
        """Say how many refusals were not told of, once their minute is over."""
        while self._refusals.counting:
            await asyncio.sleep(self._refusals.window_s / 4)
            events = self._refusals.summaries(producer=self.name)
            if events:
                logger.warning("%s refused %s", self.name, "; ".join(each.security_violation.detail for each in events))
                await self._with_log(lambda: self._publisher.publish(events))  # noqa: B023 - awaited at once

    async def _dead_letter(self, record: Record, cause: str, attempts: int, run_id: str) -> None:
        self._metrics.count("esper_oona_dead_letter_total", topic=record.topic)
        letter = dead_letter(
            record, handler=self.name, cause=cause, attempts=attempts, producer=self.name, run_id=run_id
        )
        await self._with_log(lambda: self._publisher.publish([letter]))

    async def _with_log(self, action: Callable[[], Awaitable[None]]) -> None:
        """Do it, and wait for the log as long as it takes: without it no failure could be recorded anyway."""
        while True:
            try:
                await action()
            except LogUnavailable as error:
                logger.warning("%s waits for the log: %s", self.name, error)
                await asyncio.sleep(LOG_PAUSE_S)
            else:
                return


def record_of(message: Any) -> Record:
    """A record as aiokafka's consumer gives it."""
    return Record(
        message.topic,
        message.partition,
        message.offset,
        message.timestamp,
        signed_of(message.value, message.headers),
        message.timestamp_type == LOG_APPEND_TIME,
    )


async def tail(
    brokers: str,
    ring: KeyRing,
    run_id: str,
    *,
    topics: Sequence[Topic] = RUN_TOPICS,
    follow: bool = True,
    on_refused: Callable[[Record, Refused], None] | None = None,
) -> AsyncGenerator[Event, None]:
    """The events of a run from the beginning of the log, then live until the caller stops (or to the end of now).

    In the log's order within a topic; between topics as they arrive. At least once: know events by their ids. Records
    with a bad signature are left out and given to `on_refused`. Raises LogUnavailable where no broker answers.
    """
    consumer = LogConsumer(bootstrap_servers=brokers, urgent=True, auto_offset_reset="earliest")
    try:
        await consumer.start()
    except (KafkaError, OSError) as error:
        await consumer.stop()
        raise unavailable(brokers, "answer", error) from None
    try:
        partitions = await consumer.places_of(run_id.encode(), *topics)
        consumer.assign(partitions)
        ends = {} if follow else await consumer.end_offsets(partitions)
        while follow or await _behind(consumer, ends):
            batches = await consumer.getmany(timeout_ms=200, max_records=2_000)
            for messages in batches.values():
                for message in messages:
                    record = record_of(message)
                    event = verified_history(record, ring)
                    if isinstance(event, Refused):
                        if on_refused is not None:
                            on_refused(record, event)
                    elif event.run_id == run_id:
                        yield event
    except KafkaError as error:  # such as a right that is missing
        raise unavailable(brokers, "give its records", error) from None
    finally:
        await consumer.stop()


async def handled(
    brokers: str, ring: KeyRing, topic: Topic, group: str, since_s: float
) -> AsyncGenerator[tuple[Event, Record], None]:
    """What came to a topic in the last `since_s` seconds and `group` has handled already, with its place on the log.

    For a process whose memory is a fold. Raises LogUnavailable where no broker answers.
    """
    consumer = LogConsumer(bootstrap_servers=brokers, urgent=True, group_id=group, auto_offset_reset="earliest")
    try:
        await consumer.start()
        partitions = await consumer.places(topic)
        ends = await consumer.committed_offsets(partitions)
        begins = await consumer.offsets_since(partitions, int(1e3 * (time.time() - since_s)))
        wanted = {place: ends[place] for place, begin in begins.items() if begin < ends[place]}
        consumer.assign(list(wanted))
        for place in wanted:
            consumer.seek(place, begins[place])
        while wanted and await _behind(consumer, wanted):
            for messages in (await consumer.getmany(timeout_ms=200, max_records=2_000)).values():
                for record in map(record_of, messages):
                    if record.offset < wanted[TopicPartition(record.topic, record.partition)]:
                        event = verified_history(record, ring)
                        if not isinstance(event, Refused):
                            yield event, record
    except (KafkaError, OSError) as error:
        raise unavailable(brokers, "give its records", error) from None
    finally:
        await consumer.stop()


async def past(brokers: str, ring: KeyRing, topic: Topic) -> AsyncGenerator[Event, None]:
    """The events of a topic from its beginning to its present end; records with a bad signature are left out.

    For what a process must know before it begins. Raises LogUnavailable where no broker answers.
    """
    consumer = LogConsumer(bootstrap_servers=brokers, urgent=True, auto_offset_reset="earliest")
    try:
        await consumer.start()
    except (KafkaError, OSError) as error:
        await consumer.stop()
        raise unavailable(brokers, "answer", error) from None
    try:
        partitions = await consumer.places(topic)
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        while await _behind(consumer, ends):
            for messages in (await consumer.getmany(timeout_ms=200, max_records=2_000)).values():
                for message in messages:
                    event = verified_history(record_of(message), ring)
                    if not isinstance(event, Refused):
                        yield event
    except KafkaError as error:  # such as a right that is missing
        raise unavailable(brokers, "give its records", error) from None
    finally:
        await consumer.stop()


async def _behind(consumer: LogConsumer, ends: dict[TopicPartition, int]) -> bool:
    for partition, end in ends.items():
        if await consumer.position(partition) < end:
            return True
    return False
