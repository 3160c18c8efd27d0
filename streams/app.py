"""The Faust app of a process: settings that were measured, in one place (`docs/decisions` and the README say why)."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiokafka
import faust

from contracts.topics import PARTITIONS, Topic
from streams.consumer import LogConsumer
from streams.records import Record, signed_of


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
    """

    async def seek_to_committed(self, *partitions: Any) -> dict[Any, int | None]:
        """As aiokafka's, but a partition of which nothing is committed begins at its beginning."""
        committed: dict[Any, int | None] = await super().seek_to_committed(*partitions)
        new = [partition for partition, offset in committed.items() if not offset]
        if new:
            await self.seek_to_beginning(*new)
        return committed


def make_app(name: str, brokers: str, data_dir: Path, *, embedded: bool, urgent: bool = False) -> faust.App:
    """An app that is to be started in the running loop. `name` is its consumer group.

    `urgent` says that somebody waits for what its agents do.

    At least once, no web server, no tables, no topics of its own.
    """
    # Faust looks the class up at its start and offers no other way to set what it passes to it.
    aiokafka.AIOKafkaConsumer = partial(FaustConsumer, urgent=urgent)
    member = membership(name, data_dir, embedded=embedded)
    # Faust formats the path with its configuration, so braces in it must be doubled.
    folder = str(data_dir / "run" / f"{name}.faust").replace("{", "{{").replace("}", "}}")
    return faust.App(
        name,
        broker=[f"kafka://{address.strip()}" for address in brokers.split(",")],
        store="memory://",
        datadir=folder,
        loop=asyncio.get_running_loop(),
        web_enabled=False,
        topic_partitions=PARTITIONS,
        topic_replication_factor=1,
        topic_disable_leader=True,
        topic_allow_declare=False,
        stream_wait_empty=False,
        broker_heartbeat_interval=0.5,
        broker_session_timeout=member.session_s,
        broker_commit_interval=0.5,
        consumer_group_instance_id=member.instance_id,
        consumer_auto_offset_reset="earliest",
        producer_linger=0.0,
        processing_guarantee="at_least_once",
    )


def source(app: faust.App, *topics: Topic) -> Any:
    """The topics as an agent's source: raw bytes, decoded by our own codec."""
    return app.topic(
        *(topic.name for topic in topics),
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        partitions=PARTITIONS,
    )


def record_of_event(event: Any) -> Record:
    """A record as Faust gives it to an agent. Its timestamps are seconds."""
    message = event.message
    return Record(
        message.topic,
        message.partition,
        message.offset,
        round(message.timestamp * 1000),
        signed_of(message.value, message.headers),
    )
