"""What every handler works on: the store, the groups, the counters."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from kio.schema.errors import ErrorCode

from streams.broker.groups import MAX_GROUPS, Group
from streams.broker.limits import Peers
from streams.broker.partition import Partition
from streams.broker.protocol import Refused
from streams.broker.store import Store

_LOG: Final = logging.getLogger(__name__)
NODE_ID: Final = 1
MAX_GROUP_ID: Final = 249
_COMPLAIN_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the client's own name, its address, the address that it reached us under, the version it speaks."""

    client_id: str
    host: str
    reached: tuple[str, int]
    version: int


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    connections: int = 0
    open_connections: int = 0
    requests: int = 0
    malformed: int = 0
    batches: int = 0
    records: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    duplicates: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class PartitionStats:
    """One partition as it stands: offsets, bytes on disk, damaged segment files."""

    topic: str
    partition: int
    start: int
    end: int
    bytes: int
    damaged: tuple[str, ...]


@dataclass(slots=True)
class Core:
    """The broker without its connections.

    `sync` waits until what a partition holds is on the disk (`server.Flusher`).
    """

    store: Store
    sync: Callable[[Partition], Awaitable[None]]
    counters: Counters = field(default_factory=Counters)
    groups: dict[str, Group] = field(default_factory=dict)
    peers: Peers = field(default_factory=Peers)
    secret: str | None = None
    """What clients have to name; None lets anyone in."""
    _complained: float = float("-inf")
    _turned_away: float = float("-inf")

    def group(self, group_id: str, *, keep: bool = False) -> Group:
        """The group; one that nobody has joined yet is made afresh, and kept only for one who is about to.

        Raises:
            Refused: the id is empty or too long, or there are too many groups.
        """
        if not 0 < len(group_id) <= MAX_GROUP_ID:
            raise Refused(ErrorCode.invalid_group_id, f"group id {group_id[:32]!r}: 1 to {MAX_GROUP_ID} characters")
        group = self.groups.get(group_id)
        if group is None:
            generation = self.store.registry.generation(group_id)
            group = Group(group_id, generation, self._save_generation)
            if keep:
                self._make_room()
                self.groups[group_id] = group
        return group

    def _make_room(self) -> None:
        """Forgets groups that all members have left, where there are too many."""
        if len(self.groups) < MAX_GROUPS:
            return
        self.groups = {name: group for name, group in self.groups.items() if group.members}
        if len(self.groups) >= MAX_GROUPS:
            raise Refused(ErrorCode.policy_violation, f"{MAX_GROUPS} groups have members: no more can be joined")

    def _save_generation(self, group_id: str, generation: int) -> None:
        try:
            self.store.registry.set_generation(group_id, generation)
        except sqlite3.Error as error:  # the group works without; only a restart would count from an older one
            self.complain(Refused(ErrorCode.kafka_storage_error, f"group {group_id}: generation not stored: {error}"))

    def complain(self, refused: Refused) -> None:
        """Tells the operator about a disk that refuses; at most every ten seconds, as producers try again."""
        self.counters.refused += 1
        if refused.code is not ErrorCode.kafka_storage_error:
            return
        self._say(refused.why)

    def _say(self, why: str) -> None:
        if time.monotonic() - self._complained > _COMPLAIN_EVERY_S:
            self._complained = time.monotonic()
            _LOG.error("%s", why)

    def unwritable(self) -> bool:
        """Whether the disk refuses what producers write: found out now, also where none of them writes."""
        try:
            self.store.try_disk()
        except OSError as error:
            self._say(f"the disk takes nothing: {error}")
            return True
        return any(partition.failure for _, _, partition in self.store.partitions())

    def refuse_stranger(self, caller: Caller, why: str) -> None:
        """Tells the operator who was not let in; at most every ten seconds, as anyone can knock."""
        self.counters.refused += 1
        if time.monotonic() - self._turned_away > _COMPLAIN_EVERY_S:
            self._turned_away = time.monotonic()
            _LOG.warning("%r at %s is not let in: %s", caller.client_id[:64], caller.host, why)

    def partition_stats(self) -> list[PartitionStats]:
        """All partitions, for metrics and health."""
        return [
            PartitionStats(topic.row.name, number, p.start, p.end, p.size, tuple(p.damaged))
            for topic, number, p in self.store.partitions()
        ]
