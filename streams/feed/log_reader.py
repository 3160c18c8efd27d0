"""Record batches straight from the log, a bounded number ahead of whoever takes them.

aiokafka's consumer makes an object of every record in Python (2 µs each); here its client fetches, and its record
batches stay as they came until somebody reads them. A thread of its own waits for the network. At most one answer is on
its way and one lies ready, so a slow reader makes fetching stop, and memory does not grow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any, Final, Self, TypeAlias, TypeVar

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    KafkaError,
    NodeNotReadyError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import TopicPartition

from projections.manifest import Place
from streams.access import credentials, prefix_of
from streams.background import LoopThread
from streams.consumer import GATHERING_BYTES
from streams.fetched import Whole, parts
from streams.fetching import name_it
from streams.not_let_in import unavailable

FETCH_BYTES: Final = 2 * 2**20
"""Of one partition in one answer."""
ANSWER_BYTES: Final = 16 * 2**20
POLL_MS: Final = 100
START_S: Final = 10.0
EARLIEST: Final = -2
LATEST: Final = -1
_ANY_ISOLATION: Final = 0

T = TypeVar("T")
Taken: TypeAlias = tuple[list[Any], int]
"""Record batches, and the offset up to which they are all there is."""


class OutOfRange(Exception):
    """The log does not hold this offset any more, or not yet."""

    def __init__(self, place: Place, offset: int) -> None:
        super().__init__(f"{place[0]}/{place[1]}@{offset}")
        self.place = place
        self.offset = offset


class LogReader:
    """Reads partitions of the log at `brokers` from the offsets that `seek` was given.

    Every method raises LogUnavailable where the log does not answer; then this reader is of no more use.
    """

    def __init__(self, brokers: str) -> None:
        self.brokers = brokers
        self._prefix = prefix_of(brokers)
        self._thread = LoopThread("feed-fetch")
        self._closed = False
        self._client: AIOKafkaClient | None = None
        self._next: dict[Place, int] = {}
        self._ready: dict[Place, Taken] = {}
        self._coming: Future[dict[Place, Taken]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self, topics: Iterable[str]) -> int:
        """Find the log and where the partitions of `topics` are; how many each has."""
        return self._do(self._connect(topics))

    def close(self) -> None:
        """Disconnect and end the thread."""
        if self._closed:
            return
        self._closed = True
        if self._coming is not None:
            self._coming.cancel()
        if self._client is not None:
            with contextlib.suppress(KafkaError, OSError, NotYet):
                self._thread.run(self._client.close(), 2.0)
        self._thread.stop()

    def offsets(self, places: Collection[Place], at: int) -> dict[Place, int]:
        """Where each partition begins (`EARLIEST`), ends (`LATEST`), or was at a Unix time in milliseconds."""
        return self._do(self._offsets(places, at))

    def partitions(self, topics: Collection[str]) -> int:
        """How many partitions each of `topics` has now; the log is asked."""
        return self._do(self._partitions(topics))

    def seek(self, place: Place, offset: int) -> None:
        """Read a partition from `offset`."""
        if self._coming is not None:  # what comes may be of the offset before
            self._settle()
        self._ready.pop(place, None)
        self._next[place] = offset

    def take(self, places: Collection[Place], wait_s: float) -> dict[Place, Taken]:
        """Record batches of some of `places`, in order, that no `take` gave before; none where none came in time.

        Raises OutOfRange for an offset that the log does not hold. Bytes that are damaged are named and left out.
        """
        wanted = [place for place in places if place not in self._ready]
        if len(wanted) == len(places):
            if self._coming is None:
                self._ask(wanted)
            self._settle(wait_s)
        found = {place: self._ready.pop(place) for place in places if place in self._ready}
        if self._coming is None and found:
            self._ask([place for place in places if place not in self._ready])
        return found

    def _ask(self, places: Collection[Place]) -> None:
        wanted = {place: self._next[place] for place in places}
        self._coming = self._thread.spawn(self._fetch(wanted))

    def _settle(self, wait_s: float | None = None) -> None:
        """Let what is on its way arrive and lie ready."""
        assert self._coming is not None
        try:
            came = self._coming.result(wait_s)
        except NotYet:
            return
        except (KafkaError, OSError, TimeoutError) as error:
            self._coming = None
            raise unavailable(self.brokers, "give the feed its events", error) from None
        except BaseException:
            self._coming = None
            raise
        self._coming = None
        self._ready |= came
        self._next |= {place: until for place, (_, until) in came.items()}

    def _do(self, doing: Coroutine[Any, Any, T]) -> T:
        try:
            return self._thread.spawn(doing).result()
        except (KafkaError, OSError, TimeoutError) as error:
            raise unavailable(self.brokers, "answer", error) from None

    async def _connect(self, topics: Iterable[str]) -> int:
        timeout_ms = int(START_S * 1000)
        client = AIOKafkaClient(
            bootstrap_servers=self.brokers, request_timeout_ms=timeout_ms, **credentials(self.brokers)
        )
        self._client = client
        async with asyncio.timeout(START_S):
            await client.bootstrap()
            found: set[int] = set()
            for topic in topics:
                # There is no public way to wait for one topic.
                found = await client._wait_on_metadata(self._prefix + topic)  # noqa: SLF001
        return len(found)

    async def _partitions(self, topics: Collection[str]) -> int:
        assert self._client is not None
        await self._client.force_metadata_update()
        cluster = self._client.cluster
        return min(len(cluster.partitions_for_topic(self._prefix + topic) or ()) for topic in topics)

    def _leader(self, place: Place) -> int:
        assert self._client is not None
        node = self._client.cluster.leader_for_partition(TopicPartition(self._prefix + place[0], place[1]))
        if node is None or node < 0:
            raise NodeNotReadyError(f"{place[0]}/{place[1]} has no leader")
        return int(node)

    def _by_leader(self, places: Iterable[Place]) -> dict[int, dict[str, list[int]]]:
        grouped: dict[int, dict[str, list[int]]] = {}
        for topic, partition in places:
            grouped.setdefault(self._leader((topic, partition)), {}).setdefault(topic, []).append(partition)
        return grouped

    async def _offsets(self, places: Collection[Place], at: int) -> dict[Place, int]:
        assert self._client is not None
        found: dict[Place, int] = {}
        for node, topics in self._by_leader(places).items():
            asked = [
                (self._prefix + topic, [(partition, at) for partition in partitions])
                for topic, partitions in topics.items()
            ]
            answer = await self._client.send(node, OffsetRequest(-1, _ANY_ISOLATION, asked))
            for topic, partitions in answer.topics:
                for partition, code, *_, offset in partitions:
                    if code:
                        raise for_code(code)
                    found[topic.removeprefix(self._prefix), partition] = offset
        return found

    async def _fetch(self, wanted: Mapping[Place, int]) -> dict[Place, Taken]:
        answers = [self._fetch_from(node, topics, wanted) for node, topics in self._by_leader(wanted).items()]
        found: dict[Place, Taken] = {}
        for answer in await asyncio.gather(*answers):
            found |= answer
        return found

    async def _fetch_from(
        self, node: int, topics: Mapping[str, list[int]], wanted: Mapping[Place, int]
    ) -> dict[Place, Taken]:
        assert self._client is not None
        asked = [
            (self._prefix + topic, [(partition, wanted[topic, partition], FETCH_BYTES) for partition in partitions])
            for topic, partitions in topics.items()
        ]
        answer = await self._client.send(
            node, FetchRequest(POLL_MS, GATHERING_BYTES, ANSWER_BYTES, _ANY_ISOLATION, asked)
        )
        found: dict[Place, Taken] = {}
        for topic, partitions in answer.topics:
            for partition, code, end, *_, content in partitions:
                place = (topic.removeprefix(self._prefix), partition)
                self._check(place, wanted[place], code)
                batches, until = _batches(content, place, wanted[place], end)
                if until > wanted[place]:
                    found[place] = (batches, until)
                elif len(wanted) == 1 and end > wanted[place]:  # asked for nothing else: the log lost what was there
                    found[place] = ([], end)
        return found

    def _check(self, place: Place, offset: int, code: int) -> None:
        kind = for_code(code)
        if kind is OffsetOutOfRangeError:
            raise OutOfRange(place, offset)
        if code:
            assert self._client is not None
            if kind is not UnknownTopicOrPartitionError:
                self._client.force_metadata_update()
            raise kind


def _batches(content: bytes | None, place: Place, offset: int, end: int) -> tuple[list[Whole], int]:
    """The whole record batches of an answer, nothing in them read, and where they end; what is damaged is named."""
    found = []
    for part in parts(content or b"", place, offset, end):
        if isinstance(part, Whole):
            found.append(part)
            offset = part.next_offset
        else:
            name_it(part)
            offset = part.next
    return found, offset
