"""Faust behind one module: a process says which topics its handlers take, and nothing else of Esper knows Faust.

What is patched in faust-streaming 0.15.3 and aiokafka 0.14.0, and which upstream issue that answers:

- `FaustConsumer.seek_to_committed`: aio-libs/aiokafka issue 1003, open. A return to a committed offset of 0, or to
  none, goes nowhere, and the records that Faust threw away in a rebalance are lost.
- `CommitKeeper`: faust-streaming/faust issue 316. A commit that failed counts as made. Upstream's pull request 692
  mends the mark and not the acknowledgements, which are dropped before the commit; ours keeps both.
- `LoopConsumer`: no issue known. Faust gives its consumer a thread and an event loop of its own, so that agents which
  block do not hold up its heartbeats. Ours never block for long, and each record then crossed between two loops twice.
- `NoTables`: no issue known. Faust waits a second before it asks for its partitions, for modules that declare tables
  meanwhile. We have none, and a run's first step waits for the processes.
- `credentials_to_aiokafka_auth` is replaced, so that Faust's clients are let in as all others are, by `streams.access`.
- `aiokafka.AIOKafkaConsumer` is replaced because Faust sets its `fetch_max_wait_ms` to 1,500 and offers no setting (no
  issue known). `streams.consumer` says why that matters.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiokafka
import faust
from faust.tables.manager import TableManager
from faust.transport.drivers import aiokafka as driver
from mode import Service
from mode.utils.futures import maybe_async

from contracts.topics import Topic
from streams.access import credentials, prefix_of
from streams.consumer import LogConsumer
from streams.records import LOG_APPEND_TIME, Record, signed_of

RECENT_S: Final = 600.0
"""Where somebody waits for what agents do, nobody does any more for what came so long ago."""
MORE_PARTITIONS_MS: Final = 10_000
"""How often a group looks whether somebody has added partitions. aiokafka does so every five minutes, and until then
nobody decides for runs that lie on one of them."""
TOLD_S: Final = 86_400.0
"""Of what came longer ago than a day nobody is told by metrics and alerts: a group without offsets begins there, and
does not fold the history of everybody's runs."""

Take = Callable[[Record], Awaitable[None]]
"""Handles one record to its end; when it returns, the record's offset may be committed."""


@dataclass(frozen=True, slots=True)
class Membership:
    """How a process belongs to its consumer group. `session_s` is how long a dead one keeps its partitions.

    Kafka and Redpanda allow 6 s at least, but take a process that comes back under its `instance_id` in at once. The
    embedded log allows less and knows no instances.
    """

    session_s: float
    instance_id: str | None


def membership(name: str, data_dir: Path, *, embedded: bool) -> Membership:
    """One process of a name and data folder is always the same member of a group on an outside log."""
    if embedded:
        return Membership(session_s=3.0, instance_id=None)
    home = f"{socket.gethostname()}:{data_dir.resolve()}:{name}"
    return Membership(session_s=6.0, instance_id=f"{name}-{hashlib.sha256(home.encode()).hexdigest()[:12]}")


class FaustConsumer(LogConsumer):
    """The log's consumer as Faust needs it: no lost records.

    After a rebalance Faust throws away what it had fetched and goes back to the committed offsets. For a partition
    without one, or with offset 0, aiokafka goes nowhere: the records are lost (seen after a broker crash within the
    first commit interval). Going back to the beginning is what `auto_offset_reset="earliest"` means there.

    With `recent_s` it goes back so far only: to what came in so many seconds. A log forgets the offsets of a group that
    was away for long (Kafka after a week), and of old records nobody waits for an answer any more.
    """

    def __init__(self, *topics: str, recent_s: float | None = None, **settings: Any) -> None:
        super().__init__(*topics, **settings | {"metadata_max_age_ms": MORE_PARTITIONS_MS})
        self._recent_s = recent_s

    async def seek_to_committed(self, *partitions: Any) -> dict[Any, int | None]:
        """As aiokafka's, but a partition of which nothing is committed begins where it should."""
        committed: dict[Any, int | None] = await super().seek_to_committed(*partitions)
        new = [partition for partition, offset in committed.items() if not offset]
        if new and self._recent_s is None:
            await self.seek_to_beginning(*new)
        elif new:
            ends = await self.end_offsets(new)  # first: what comes from now on lies behind them
            since_ms = int(1e3 * (time.time() - (self._recent_s or 0.0)))
            found = await self.offsets_for_times(dict.fromkeys(new, since_ms))
            for place in new:
                self.seek(place, found[place].offset if found.get(place) else ends[place])
        return committed


class CommitKeeper(driver.Consumer):
    """Faust's consumer, but offsets count as committed only where the log took the commit; else it is made again.

    Faust drops the acknowledgements of what it is about to commit and moves its own mark, whatever becomes of the
    commit. Until another record was handled it then committed nothing, and after a return to what is really committed
    it ignored the acknowledgements of all that came again.
    """

    async def _commit_offsets(self, offsets: Mapping[Any, int], *rest: Any, **named: Any) -> bool:
        before = {place: self._committed_offset[place] for place in offsets}
        done = False
        try:
            done = bool(await super()._commit_offsets(offsets, *rest, **named))
        finally:
            if not done:
                self._take_back(before, offsets)
        return done

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return LoopConsumer(self, loop=self.loop, beacon=self.beacon)

    async def verify_all_partitions_active(self) -> None:
        """Faust walks all partitions every second or so, to warn of those that stand still, as an idle log's do."""

    def _take_back(self, before: Mapping[Any, int | None], offsets: Mapping[Any, int]) -> None:
        assigned = self.assignment()
        for place, offset in offsets.items():
            if place not in assigned:
                continue
            committed = before[place]
            if self._committed_offset[place] == offset:
                self._committed_offset[place] = committed
            acknowledged = range(offset - 1 if committed is None else committed, offset)
            missing = [each for each in acknowledged if each not in self._acked_index[place]]
            self._acked_index[place].update(missing)
            self._acked[place].extend(missing)


class LoopConsumer(driver.AIOKafkaConsumerThread):
    """What Faust calls the consumer's thread, as a plain service in the loop of the app.

    A handler that computes for long holds up the group's heartbeats with it: it belongs into a thread of its own.
    """

    wait_for_shutdown = False

    def __init__(self, consumer: driver.Consumer, *, loop: asyncio.AbstractEventLoop, **named: Any) -> None:
        super().__init__(consumer, loop=loop, thread_loop=loop, **named)

    async def maybe_start(self) -> bool:
        """Start it if that was not done; whether it was."""
        return bool(await Service.maybe_start(self))

    async def start(self) -> None:
        """Start in the running loop."""
        await self._default_start()

    async def stop(self) -> None:
        """Disconnect, and end the tasks."""
        await Service.stop(self)

    async def on_stop(self) -> None:
        """Leave the group."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def crash(self, reason: BaseException) -> None:
        """Tell the app that the consumer can do no more."""
        await Service.crash(self, reason)

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **named: Any) -> Any:
        """Call `fun` here and now: there is no other thread."""
        return await maybe_async(fun(*args, **named))

    def _get_tasks(self) -> tuple[()]:
        """None: the one that it would have only keeps a thread's loop awake."""
        return ()

    def _stopped_set(self) -> None:
        self._stopped.set()

    async def _stop_children(self) -> None:
        await self._default_stop_children()

    async def _stop_futures(self) -> None:
        await self._default_stop_futures()

    async def _stop_exit_stacks(self) -> None:
        await self._default_stop_exit_stacks()


class NoTables(TableManager):
    """Faust's tables, of which there are none: nobody waits for any to be declared."""

    async def on_start(self) -> None:
        """As Faust's, without its wait."""
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


class App(faust.App):
    """Faust's, which knows what stands before the names of our topics and groups on its log."""

    prefix = ""


def make_app(name: str, brokers: str, data_dir: Path, *, embedded: bool, urgent: bool = False) -> App:
    """An app that is to be started in the running loop. `name` is its consumer group.

    `urgent` says that somebody waits for what its agents do.

    At least once, no web server, no tables, no topics of its own.
    """
    # Faust looks the classes up at its start and offers no other way to set them.
    aiokafka.AIOKafkaConsumer = partial(FaustConsumer, urgent=urgent, recent_s=RECENT_S if urgent else TOLD_S)
    driver.Transport.Consumer = CommitKeeper
    way_in = credentials(brokers)
    driver.credentials_to_aiokafka_auth = lambda *_: {"security_protocol": "PLAINTEXT", **way_in}
    member = membership(name, data_dir, embedded=embedded)
    # Faust formats the path with its configuration, so braces in it must be doubled.
    folder = str(data_dir / "run" / f"{name}.faust").replace("{", "{{").replace("}", "}}")
    prefix = prefix_of(brokers)
    app = App(
        prefix + name,
        broker=[f"kafka://{address.strip()}" for address in brokers.split(",")],
        store="memory://",
        datadir=folder,
        loop=asyncio.get_running_loop(),
        web_enabled=False,
        topic_replication_factor=1,
        topic_disable_leader=True,
        topic_allow_declare=False,
        stream_wait_empty=False,
        broker_heartbeat_interval=1.0,
        broker_session_timeout=member.session_s,
        broker_commit_interval=0.5,
        consumer_group_instance_id=member.instance_id,
        consumer_auto_offset_reset="earliest",
        producer_linger=0.0,
        processing_guarantee="at_least_once",
        TableManager=NoTables,
    )
    app.prefix = prefix
    return app


def add_agent(app: App, name: str, topics: Sequence[Topic], take: Take) -> None:
    """Have `take` called with every record of `topics`, one after the other; declared before the app starts."""
    channel = app.topic(
        *(app.prefix + topic.name for topic in topics),
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
    )

    async def agent(stream: Any) -> None:
        async for event in stream.events():
            await take(_record_of(event.message, app.prefix))

    app.agent(channel, name=name)(agent)


def _record_of(message: Any, prefix: str) -> Record:
    """A record as Faust gives it. Its timestamps are seconds."""
    return Record(
        message.topic.removeprefix(prefix),
        message.partition,
        message.offset,
        round(message.timestamp * 1000),
        signed_of(message.value, message.headers),
        message.timestamp_type == LOG_APPEND_TIME,
    )
