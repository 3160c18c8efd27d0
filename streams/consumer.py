"""Reading the log: aiokafka's consumer, urgent or gathering, with fetches that wait long and hold up no busy partition.

`docs/decisions/0011-fetches-wait-and-the-decision-goes-first.md` has the reasons. `ends_of` asks where the log ends,
`enter` whether it lets us in.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import consumer as aiokafka_consumer
from aiokafka.consumer import fetcher
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from contracts.topics import BY_NAME, COMMANDS, RUNS, Topic
from projections.manifest import Place
from projections.records import Unreadable
from streams.access import credentials, prefix_of
from streams.fetching import Reading, SoundFetcher, name_it
from streams.not_let_in import all_closed, no_log
from streams.producer import MADE_S
from streams.records import settled

LONG_WAIT_MS: Final = 1_000
"""How long a fetch waits at the broker for records: an idle client costs a request a second."""
SHORT_WAIT_MS: Final = 20
"""The same for a fetch that leaves a partition out, which has to wait until this one is back."""
LOOK_AGAIN_MS: Final = 1_000
"""aiokafka's fetcher looks around every 200 ms. All that it waits for wakes it anyway (`PatientFetcher`)."""
URGENT_BYTES: Final = 1
GATHERING_BYTES: Final = 2
"""`fetch_min_bytes` of those who can wait. A Kafka broker makes no difference, because no batch is as small; the
embedded log answers these after 50 ms with all that came meanwhile, and urgent ones first
(`broker.handlers.records`)."""
LOOK_FOR_MORE_S: Final = 10.0
"""How often it is looked whether somebody has added partitions."""
TIMEOUT_S: Final = 10.0
ENTER_S: Final = 4.0

T = TypeVar("T")


class PatientFetcher(SoundFetcher):
    """Asks for a long wait only where every partition that may be read is in the fetch.

    aiokafka has one fetch under way per broker. Where records of a partition were not consumed within 0.1 s it fetches
    the others alone, and the busy partition has to wait until that fetch comes back, however soon it was drained.

    A request that ends just as something else wakes the fetcher still counts as under way when it looks what to do, and
    nothing says later that it is over: aiokafka then fetches nothing until it looks around again. That was seen as a
    consumer began, in one of ten: it was deaf for a second, and the first decision of a run waited for that.
    """

    def _get_actions_per_node(self, assignment: Any) -> Any:
        paused = any(assignment.state_value(place).paused for place in assignment.tps)
        whole = not self._records and not paused
        self._fetch_max_wait_ms = LONG_WAIT_MS if whole else SHORT_WAIT_MS
        *actions, timeout_s, invalid, resumed = super()._get_actions_per_node(assignment)
        over = len(self._in_flight) > len(self._pending_tasks)  # one node for each request that is not over
        return *actions, 0.0 if over else timeout_s, invalid, resumed


def _fetcher(client: Any, *rest: Any, **settings: Any) -> fetcher.Fetcher:
    """Ours for our consumers. A program that uses them may have others, which keep aiokafka's own."""
    kind = PatientFetcher if hasattr(client, "reading") else fetcher.Fetcher
    return kind(client, *rest, **settings)


class LogConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """aiokafka's consumer that never commits by itself. `urgent` is for whoever somebody waits for.

    It steps over what of the log cannot be read, and tells `unreadable`. With `batches` it gives `Batch`es and
    `Unreadable`s instead of records. All other settings are aiokafka's own. Topics have the names of
    `contracts/topics.py` here, whatever stands before them on the log.
    """

    def __init__(
        self,
        *topics: str,
        urgent: bool = False,
        batches: bool = False,
        unreadable: Callable[[Unreadable], None] = name_it,
        **settings: Any,
    ) -> None:
        ours = {
            "fetch_min_bytes": URGENT_BYTES if urgent else GATHERING_BYTES,
            "fetch_max_wait_ms": LONG_WAIT_MS,
            "consumer_timeout_ms": LOOK_AGAIN_MS,
            "enable_auto_commit": False,
        }
        # aiokafka looks the class up in its module when a consumer starts, and offers no other way to set it.
        aiokafka_consumer.Fetcher = _fetcher
        brokers = settings.get("bootstrap_servers")  # a list is Faust's, which has asked for the way in itself
        way_in = credentials(brokers) if isinstance(brokers, str) else {}
        super().__init__(*topics, **{**settings, **ours, **way_in})
        self._prefix = prefix_of(brokers) if isinstance(brokers, str) else ""
        self._looked_at = time.monotonic()
        # The one thing of ours that the fetcher gets.
        self._client.reading = Reading(batches, unreadable, self._prefix)

    async def places(self, *topics: Topic) -> list[TopicPartition]:
        """Every partition of some topics, as many as the log says that there are.

        Raises UnknownTopicOrPartitionError where one is not there, and none comes within `MADE_S`.
        """
        deadline = time.monotonic() + MADE_S
        cluster, there = self._client.cluster, {topic.name: self._prefix + topic.name for topic in topics}
        # Made known first: aiokafka waits 0.2 s before it asks again about one that it has not heard of.
        await asyncio.gather(*map(self._client.add_topic, set(there.values()) - cluster.topics()))
        while lacking := [name for name in there.values() if not cluster.partitions_for_topic(name)]:
            if time.monotonic() > deadline:
                raise UnknownTopicOrPartitionError(f"there is no topic {', '.join(lacking)}")
            await asyncio.sleep(LOOK_AGAIN_MS / 10_000)
            await self._client.force_metadata_update()
        return [
            TopicPartition(name, number)
            for name, full in there.items()
            for number in sorted(cluster.partitions_for_topic(full))
        ]

    async def places_of(self, key: bytes, *topics: Topic, partition: int | None = None) -> list[TopicPartition]:
        """The partition of a key in each of some topics.

        That is `partition` where it is known: what began before somebody added partitions stays where it is. A log that
        has no such partition is another one.
        """
        places = await self.places(*topics)
        counts = Counter(place.topic for place in places)
        return [place for place in places if place.partition == settled(key, counts[place.topic], partition)]

    async def take_in_added(self, every_s: float = LOOK_FOR_MORE_S) -> bool:
        """Read what somebody has added of partitions, too, from its beginning on; whether there was any.

        For whoever reads all of a topic without a group, before it fetches; the log is asked every so often.
        """
        now = time.monotonic()
        if now < self._looked_at + every_s:
            return False
        self._looked_at = now
        if not await self.has_grown():
            return False
        at = {place: await self.position(place) for place in self.assignment()}
        names = {place.topic for place in at}
        places = [each for name in sorted(names) for each in await self.places(BY_NAME[name])]
        self.assign(places)
        for place in places:
            self.seek(place, at.get(place, 0))
        return True

    async def has_grown(self) -> bool:
        """Whether the log has more partitions of what is read than are assigned; it is asked."""
        await self._client.force_metadata_update()
        read, cluster = Counter(place.topic for place in super().assignment()), self._client.cluster
        return any(len(cluster.partitions_for_topic(name) or ()) > count for name, count in read.items())

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Where partitions end now: offsets of the next records."""
        return self._ours(await super().end_offsets(self._there(*partitions)))

    async def beginning_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Where partitions begin now: offsets of the first records."""
        return self._ours(await super().beginning_offsets(self._there(*partitions)))

    async def committed_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Where this consumer's group goes on; 0 where it has committed nothing."""
        found = {}
        for place in partitions:
            found[place] = await super().committed(*self._there(place)) or 0
        return found

    async def offsets_since(self, partitions: Collection[TopicPartition], since_ms: int) -> dict[TopicPartition, int]:
        """The first offsets that came at `since_ms` (Unix milliseconds) or later; partitions without are left out."""
        found = await super().offsets_for_times(dict.fromkeys(self._there(*partitions), since_ms))
        return {place: at.offset for place, at in self._ours(found).items() if at is not None}

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        """Read these partitions, without a group's say."""
        super().assign(self._there(*partitions))

    def assignment(self) -> set[TopicPartition]:
        """What is read."""
        return {self._client.reading.ours(place) for place in super().assignment()}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on at an offset."""
        super().seek(*self._there(partition), offset)

    async def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Go on where partitions end."""
        await super().seek_to_end(*self._there(*partitions))

    async def position(self, partition: TopicPartition) -> int:
        """The offset of the record that comes next."""
        return int(await super().position(*self._there(partition)))

    def highwater(self, partition: TopicPartition) -> int | None:
        """Where a partition ended when it was fetched last."""
        end: int | None = super().highwater(*self._there(partition))
        return end

    def pause(self, *partitions: TopicPartition) -> None:
        """Fetch no more of these."""
        super().pause(*self._there(*partitions))

    async def commit(self, offsets: dict[TopicPartition, Any] | None = None) -> None:
        """Have the log keep how far the group is."""
        there = offsets and {place: at for each, at in offsets.items() for place in self._there(each)}
        await super().commit(there)

    async def committed(self, partition: TopicPartition) -> int | None:
        """How far the group is; None where it never said."""
        at: int | None = await super().committed(*self._there(partition))
        return at

    async def getmany(self, *partitions: TopicPartition, **limits: Any) -> dict[TopicPartition, list[Any]]:
        """Records or batches by their partitions, as they came."""
        return self._ours(await super().getmany(*self._there(*partitions), **limits))

    def _there(self, *places: TopicPartition) -> list[TopicPartition]:
        """Places as the log calls them."""
        prefix = self._prefix
        return [place._replace(topic=prefix + place.topic) for place in places] if prefix else list(places)

    def _ours(self, found: dict[TopicPartition, T]) -> dict[TopicPartition, T]:
        ours = self._client.reading.ours
        return {ours(place): each for place, each in found.items()} if self._prefix else found

    def gather(self) -> None:
        """Be urgent no longer: from the fetch after next on, records may gather. Call it once started."""
        self._fetcher._fetch_min_bytes = GATHERING_BYTES  # noqa: SLF001 - aiokafka has no other way to change it


def ends_of(brokers: str, topics: tuple[Topic, ...] = (RUNS, COMMANDS)) -> dict[Place, int]:
    """The offsets of the next records of every partition of `topics`; raises LogUnavailable where no broker answers."""
    try:
        return asyncio.run(asyncio.wait_for(_ends(brokers, topics), TIMEOUT_S))
    except (KafkaError, OSError, TimeoutError) as error:
        raise no_log(brokers, error) from None


def enter(brokers: str) -> None:
    """Be let in and leave again; raises LogUnavailable where no broker answers, or one does not let us in."""
    try:
        asyncio.run(_enter(brokers))
    except (KafkaError, OSError, TimeoutError) as error:
        raise no_log(brokers, error) from None


async def _enter(brokers: str) -> None:
    client = AIOKafkaClient(bootstrap_servers=brokers, request_timeout_ms=int(ENTER_S * 1000), **credentials(brokers))
    try:
        await client.bootstrap()
    finally:
        await client.close()
        await all_closed()


async def _ends(brokers: str, topics: tuple[Topic, ...]) -> dict[Place, int]:
    # Its own timeout is the earlier one: cut off from outside, aiokafka would leave its first connection open.
    consumer = LogConsumer(bootstrap_servers=brokers, request_timeout_ms=int(TIMEOUT_S * 800))
    try:
        await consumer.start()  # a broker that is silent ends it in the middle, and what was begun is closed too
        ends = await consumer.end_offsets(await consumer.places(*topics))
    finally:
        await consumer.stop()
    return {(place.topic, place.partition): offset for place, offset in ends.items()}
