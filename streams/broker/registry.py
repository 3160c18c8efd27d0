"""What the broker remembers besides records: topics and their configurations, offsets, log starts, producer ids.

One SQLite file. What must not be forgotten when the machine dies (topics, log starts, blocks of producer ids) waits
for the disk; committed offsets do not: after a power loss a consumer reads a few records again, which every consumer
must bear anyway. Of Kafka's topic configurations, the few that mean something here are kept; all others are refused
by name.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from kio.schema.errors import ErrorCode

from streams.broker.protocol import Refused

DEFAULTS: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "flush.messages": str(2**63 - 1),
    "max.message.bytes": "1048588",
    "retention.ms": "604800000",
    "segment.bytes": str(64 * 1024 * 1024),
}
"""Kafka's own defaults, but smaller segments: retention and the check after a crash go by segments."""
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
_RANGES: Final = {
    "flush.messages": (1, 2**63 - 1),
    "max.message.bytes": (0, MAX_MESSAGE_BYTES),
    "retention.ms": (-1, 2**63 - 1),
    "segment.bytes": (1024, 2**31 - 1),
}
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS topics (name TEXT PRIMARY KEY, partitions INTEGER NOT NULL, configs TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS starts (
  topic TEXT NOT NULL, partition INTEGER NOT NULL, log_start INTEGER NOT NULL, PRIMARY KEY (topic, partition)) STRICT;
CREATE TABLE IF NOT EXISTS offsets (
  group_id TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL,
  metadata TEXT, committed_ms INTEGER NOT NULL, PRIMARY KEY (group_id, topic, partition)) STRICT;
CREATE TABLE IF NOT EXISTS groups (group_id TEXT PRIMARY KEY, generation INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""
_PRODUCER_IDS: Final = 1_000
"""Taken at a time; the rest of a block is lost at a restart, out of 2^63."""


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """What a topic's configuration means to the log."""

    retention_ms: int
    max_message_bytes: int
    segment_bytes: int
    sync_always: bool


def parsed(configs: Mapping[str, str]) -> TopicConfig:
    """The meaning of `configs` (what was set) over the defaults.

    `flush.messages=1` makes every acknowledgement wait for the disk; any other value means every half second.

    Raises:
        Refused: a name or value that this broker does not honour.
    """
    for name, value in configs.items():
        _check(name, value)
    merged = {**DEFAULTS, **configs}
    return TopicConfig(
        retention_ms=int(merged["retention.ms"]),
        max_message_bytes=int(merged["max.message.bytes"]),
        segment_bytes=int(merged["segment.bytes"]),
        sync_always=int(merged["flush.messages"]) == 1,
    )


def _check(name: str, value: str) -> None:
    if name not in DEFAULTS:
        raise Refused(ErrorCode.invalid_config, f"config {name}={value}: this broker knows {', '.join(DEFAULTS)}")
    if name == "cleanup.policy":
        if value != "delete":
            raise Refused(ErrorCode.invalid_config, f"cleanup.policy={value}: this broker only deletes")
        return
    low, high = _RANGES[name]
    if not value.lstrip("-").isascii() or not value.lstrip("-").isdigit() or not low <= int(value) <= high:
        raise Refused(ErrorCode.invalid_config, f"config {name}={value}: a number from {low} to {high} is needed")


class TopicRow(NamedTuple):
    """A topic as created; `configs` only what was set."""

    name: str
    partitions: int
    configs: dict[str, str]


@dataclass(frozen=True, slots=True)
class Committed:
    """A group's position in one partition: the offset that it wants next, and its own note."""

    next_offset: int
    metadata: str | None


class Registry:
    """The SQLite file `meta.db`. Every method is one transaction; sqlite3.Error means that nothing was changed."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)
        self._producer_ids = iter(range(0))

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def topics(self) -> list[TopicRow]:
        """All topics."""
        rows = self._db.execute("SELECT name, partitions, configs FROM topics ORDER BY name")
        return [TopicRow(name, partitions, json.loads(configs)) for name, partitions, configs in rows]

    def put_topic(self, topic: TopicRow) -> None:
        """Creates a topic or changes its partition count."""
        with self._transaction(durable=True) as db:
            row = (topic.name, topic.partitions, json.dumps(topic.configs))
            db.execute("INSERT OR REPLACE INTO topics VALUES (?, ?, ?)", row)

    def drop_topic(self, name: str) -> None:
        """Forgets a topic and all positions in it."""
        with self._transaction(durable=True) as db:
            db.execute("DELETE FROM topics WHERE name = ?", (name,))
            db.execute("DELETE FROM starts WHERE topic = ?", (name,))
            db.execute("DELETE FROM offsets WHERE topic = ?", (name,))

    def log_start(self, topic: str, partition: int) -> int:
        """The first offset that readers may have."""
        where = "SELECT log_start FROM starts WHERE topic = ? AND partition = ?"
        row = self._db.execute(where, (topic, partition)).fetchone()
        return int(row[0]) if row else 0

    def set_log_start(self, topic: str, partition: int, offset: int) -> None:
        """Moves the log start; on the disk when this returns, so that what was deleted stays deleted."""
        with self._transaction(durable=True) as db:
            db.execute("INSERT OR REPLACE INTO starts VALUES (?, ?, ?)", (topic, partition, offset))

    def commit(self, group: str, positions: Mapping[tuple[str, int], Committed]) -> None:
        """Stores a group's positions."""
        now_ms = time.time_ns() // 1_000_000
        rows = [(group, t, p, c.next_offset, c.metadata, now_ms) for (t, p), c in positions.items()]
        with self._transaction(durable=False) as db:
            db.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?, ?, ?)", rows)

    def committed(self, group: str) -> dict[tuple[str, int], Committed]:
        """All positions of a group."""
        where = "SELECT topic, partition, next_offset, metadata FROM offsets WHERE group_id = ?"
        return {(t, p): Committed(offset, note) for t, p, offset, note in self._db.execute(where, (group,))}

    def group_ids(self) -> set[str]:
        """Groups that have a position or had a generation."""
        rows = self._db.execute("SELECT group_id FROM offsets UNION SELECT group_id FROM groups")
        return {group for (group,) in rows}

    def generation(self, group: str) -> int:
        """The last generation of a group, 0 for a new one."""
        row = self._db.execute("SELECT generation FROM groups WHERE group_id = ?", (group,)).fetchone()
        return int(row[0]) if row else 0

    def set_generation(self, group: str, generation: int) -> None:
        """Remembers it, so that no generation comes twice."""
        with self._transaction(durable=False) as db:
            db.execute("INSERT OR REPLACE INTO groups VALUES (?, ?)", (group, generation))

    def drop_group(self, group: str) -> None:
        """Forgets a group and its positions."""
        with self._transaction(durable=True) as db:
            db.execute("DELETE FROM groups WHERE group_id = ?", (group,))
            db.execute("DELETE FROM offsets WHERE group_id = ?", (group,))

    def new_producer_id(self) -> int:
        """An id that was never given before."""
        given = next(self._producer_ids, None)
        if given is not None:
            return given
        with self._transaction(durable=True) as db:
            row = db.execute("SELECT value FROM counters WHERE name = 'producer_id'").fetchone()
            first = int(row[0]) if row else 0
            db.execute("INSERT OR REPLACE INTO counters VALUES ('producer_id', ?)", (first + _PRODUCER_IDS,))
        self._producer_ids = iter(range(first, first + _PRODUCER_IDS))
        return next(self._producer_ids)

    def close(self) -> None:
        """Folds the write-ahead log into the file and closes it."""
        self._db.close()
