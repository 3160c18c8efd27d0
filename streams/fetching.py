"""aiokafka's fetcher, but nothing that the log answers makes a reader stand still or grow without bound.

aiokafka raises for a damaged batch, and asks for the same one again at the next attempt, for ever. Here what cannot be
read (`streams.fetched`) is told to whoever made the consumer, and reading goes on behind it. What is opened between two
calls of the consumer is bounded, because a few hundred bytes can unpack to megabytes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from aiokafka.consumer import fetcher
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    NotLeaderForPartitionError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.structs import ConsumerRecord, TopicPartition

from esper.leyline.signing import ManyHeaders
from projections.records import Batch, Unreadable
from streams.fetched import Whole, parts

OPENED_BYTES: Final = 8 * 2**20
"""So much is opened of what was fetched before the consumer has to be called again."""
HEADER_BYTES: Final = 64
"""What a header costs in memory, however short it is."""
CORRUPT_ATTEMPTS: Final = 5
"""A broker that says for so long that a record is corrupt will not read it any more; at offsets right behind it one
answer is enough."""

_log = logging.getLogger(__name__)


def name_it(unreadable: Unreadable) -> None:
    """Say in the process's log what is left out."""
    _log.error("%s", unreadable)


@dataclass(slots=True)
class Reading:
    """How a consumer reads: whether it gives batches instead of records, and who is told what cannot be read.

    `prefix` stands before our topics' names on this log; what was read bears the names without.
    """

    batches: bool = False
    unreadable: Callable[[Unreadable], None] = name_it
    prefix: str = ""
    opened: int = 0
    corrupt: dict[TopicPartition, tuple[int, int]] = field(default_factory=dict)

    def ours(self, place: TopicPartition) -> TopicPartition:
        """A place on the log, as it is called here."""
        return place._replace(topic=place.topic.removeprefix(self.prefix)) if self.prefix else place

    def given_up(self, place: TopicPartition, offset: int) -> bool:
        """Whether the broker has said often enough that what is at `offset` is corrupt."""
        at, said = self.corrupt.get(place, (offset, 0))
        said = said + 1 if at == offset else CORRUPT_ATTEMPTS if at == offset - 1 and said > CORRUPT_ATTEMPTS else 1
        self.corrupt[place] = (offset, said + (said == CORRUPT_ATTEMPTS))
        return said >= CORRUPT_ATTEMPTS


class Fetched:
    """What a fetch returned for one partition, in the order of the log: records, or `Batch`es and `Unreadable`s."""

    def __init__(
        self, place: TopicPartition, found: Iterable[Whole | Unreadable], position: int, reading: Reading
    ) -> None:
        self.next_fetch_offset = position
        self._place = place
        self._parts = iter(found)
        self._reading = reading
        self._items = self._opened()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return next(self._items)

    def _opened(self) -> Iterator[Any]:
        reading, place = self._reading, self._place
        if reading.opened >= OPENED_BYTES:  # other partitions have filled this call; this one is fetched again
            return
        for part in self._parts:
            if isinstance(part, Unreadable):
                self.next_fetch_offset = part.next
                yield from self._left_out([part])
            elif part.is_control_batch:
                self.next_fetch_offset = part.next_offset
            else:
                records, holes = self._behind(part)
                if reading.batches:
                    self.next_fetch_offset = part.next_offset
                    if records:
                        yield self._batch(part, records)
                else:
                    reading.opened += part.size
                    for record in records:
                        self.next_fetch_offset = record.offset + 1
                        yield _record(place, record)
                    self.next_fetch_offset = part.next_offset
                if holes:
                    yield from self._left_out(holes)
            if reading.opened >= OPENED_BYTES:
                return

    def _behind(self, whole: Whole) -> tuple[list[Any], list[Unreadable]]:
        """What of a batch lies at the position or behind it: a batch is only ever fetched whole."""
        records, holes = whole.records()
        position = self.next_fetch_offset
        if whole.first < position:
            records = [record for record in records if record.offset >= position]
            holes = [replace(hole, first=max(hole.first, position)) for hole in holes if hole.next > position]
        return records, holes

    def _batch(self, whole: Whole, records: list[Any]) -> Batch:
        headers = ManyHeaders(record.headers for record in records)
        first, following, stamp_ms = records[0].offset, records[-1].offset + 1, whole.stamp_ms
        plain = following - first == len(records)  # offsets rise, so none is left out
        size = whole.size + HEADER_BYTES * headers.count_all()
        self._reading.opened += size
        return Batch(
            self._place.topic,
            self._place.partition,
            range(first, following) if plain else [record.offset for record in records],
            [record.timestamp for record in records] if stamp_ms is None else [stamp_ms] * len(records),
            [record.key for record in records],
            [record.value for record in records],
            headers,
            size=size,
        )

    def _left_out(self, stretches: Iterable[Unreadable]) -> Iterator[Unreadable]:
        for each in stretches:
            self._reading.unreadable(each)
            if self._reading.batches:
                yield each


def _record(place: TopicPartition, record: Any) -> ConsumerRecord[bytes, bytes]:
    key, value = record.key, record.value
    return ConsumerRecord(
        place.topic,
        place.partition,
        record.offset,
        record.timestamp,
        record.timestamp_type,
        key,
        value,
        record.checksum,
        -1 if key is None else len(key),
        -1 if value is None else len(value),
        tuple(record.headers),
    )


class SoundFetcher(fetcher.Fetcher):  # type: ignore[misc]
    """Takes `Fetched` of every answer. Reads at the isolation level `read_uncommitted`, from the partition's leader."""

    def __init__(self, client: Any, *rest: Any, **named: Any) -> None:
        self.reading: Reading = getattr(client, "reading", None) or Reading()  # as `LogConsumer` sets it
        super().__init__(client, *rest, **named)

    async def fetched_records(self, *rest: Any, **named: Any) -> Any:
        """As aiokafka's; from here on as much may be opened as one call takes."""
        self.reading.opened = 0
        return await super().fetched_records(*rest, **named)

    async def next_record(self, *rest: Any) -> Any:
        """The same for one record."""
        self.reading.opened = 0
        return await super().next_record(*rest)

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: Any) -> bool:
        try:
            response = await self._client.send(node_id, request)
        except KafkaError as error:
            _log.warning("no records from broker %s: %s", node_id, error)
            await asyncio.sleep(self._retry_backoff)
            return False
        except asyncio.CancelledError:
            return False
        if not assignment.active:
            return False
        asked = {(topic, number): offset for topic, partitions in request.topics for number, offset, _ in partitions}
        told = failed = False
        for topic, partitions in response.topics:
            for number, code, end, *_, content in partitions:
                place = TopicPartition(topic, number)
                state = assignment.state_value(place)
                if state.has_valid_position and state.position == asked[place]:
                    found = self._found(state, place, code, end, content)
                    told = told or found
                    failed = failed or (bool(code) and not found)
        if failed:
            await asyncio.sleep(self._retry_backoff)  # aiokafka would ask again at once, for ever
        return told

    def _found(self, state: Any, place: TopicPartition, code: int, end: int, content: bytes) -> bool:
        """Whether there is something for the consumer now."""
        offset = state.position
        ours = self.reading.ours(place)
        found: Iterable[Whole | Unreadable]
        if not code:
            state.highwater, state.timestamp = end, int(1_000 * time.time())
            found = parts(content or b"", ours, offset, end)
        else:
            kind = for_code(code)
            if kind is not CorruptRecordException or not self.reading.given_up(place, offset):
                return self._failed(state, place, kind)
            found = [Unreadable(ours.topic, ours.partition, offset, offset + 1, "the broker says that it is corrupt")]
        if code or content:
            self._records[place] = fetcher.FetchResult(
                place,
                assignment=self._subscriptions.subscription.assignment,
                partition_records=Fetched(ours, found, offset, self.reading),
                backoff=self._prefetch_backoff,
            )
        return bool(code or content)

    def _failed(self, state: Any, place: TopicPartition, kind: type[KafkaError]) -> bool:
        """What becomes of an answer that is an error, as in aiokafka; whether the consumer is told."""
        offset = state.position
        if kind is OffsetOutOfRangeError:
            _log.info("%s/%d does not hold offset %d", *place, offset)
            if self._default_reset_strategy == fetcher.OffsetResetStrategy.NONE:
                self._set_error(place, OffsetOutOfRangeError({place: offset}))
                return True
            state.await_reset(self._default_reset_strategy)
        elif kind is TopicAuthorizationFailedError:
            self._set_error(place, TopicAuthorizationFailedError(place.topic))
            return True
        else:
            if kind in {NotLeaderForPartitionError, UnknownTopicOrPartitionError}:
                self._client.force_metadata_update()
            _log.warning("%s/%d at offset %d: the broker answers %s", *place, offset, kind.__name__)
        return False
