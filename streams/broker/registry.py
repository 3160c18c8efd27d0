"""What the broker remembers besides records: topics and their configurations, offsets, log starts, producer ids.

One SQLite file. What must not be forgotten when the machine dies (topics, log starts, blocks of producer ids) waits
for the disk; committed offsets do not: after a power loss a consumer reads a few records again, which every consumer
must bear anyway. Of Kafka's topic configurations, the few that mean something here are kept; all others are refused
by name.

The file may be lost, or an older copy: `folder.py` settles what else knows of topics, and producer ids are drawn above
every one that the log has seen.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from kio.schema.errors import ErrorCode

from contracts.topics import ARCHIVER_GROUP
from streams.broker.protocol import Refused

DEFAULTS: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "flush.messages": str(2**63 - 1),
    "max.message.bytes": "1048588",
    "message.timestamp.type": "CreateTime",
    "retention.ms": "604800000",
    "segment.bytes": str(64 * 1024 * 1024),
}
"""Kafka's own defaults, but smaller segments: retention and the check after a crash go by segments."""
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
MAX_PARTITIONS: Final = 2_000
"""Of all topics together; each has two files open."""
LOG_APPEND_TIME: Final = "LogAppendTime"
_CHOICES: Final = {"cleanup.policy": ("delete",), "message.timestamp.type": ("CreateTime", LOG_APPEND_TIME)}
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
CREATE TABLE IF NOT EXISTS topic_ids (name TEXT PRIMARY KEY, id TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS identity (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
_PRODUCER_IDS: Final = 1_000
"""Taken at a time; the rest of a block is lost at a restart, out of 2^63."""
IDS_LEAP: Final = 1 << 20
"""Passed over where what was given is not known: more than all clients that have not written yet can hold."""
_MOST_IDS: Final = 1 << 62
_ID_DIGITS: Final = 20
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """What a topic's configuration means to the log."""

    retention_ms: int
    max_message_bytes: int
    segment_bytes: int
    sync_always: bool
    stamped: bool


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
        stamped=merged["message.timestamp.type"] == LOG_APPEND_TIME,
    )


def _check(name: str, value: str) -> None:
    if name not in DEFAULTS:
        raise Refused(ErrorCode.invalid_config, f"config {name}={value}: this broker knows {', '.join(DEFAULTS)}")
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise Refused(ErrorCode.invalid_config, f"{name}={value}: this broker knows {' and '.join(_CHOICES[name])}")
        return
    low, high = _RANGES[name]
    if not value.lstrip("-").isascii() or not value.lstrip("-").isdigit() or not low <= int(value) <= high:
        raise Refused(ErrorCode.invalid_config, f"config {name}={value}: a number from {low} to {high} is needed")


class TopicRow(NamedTuple):
    """A topic as created; `configs` only what was set; `id` is "" until it is drawn."""

    name: str
    partitions: int
    configs: dict[str, str]
    id: str = ""


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
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":  # an older copy beside a newer write-ahead log
            raise sqlite3.DatabaseError(str(found))
        self._ids_note = path.with_name("producer-ids")
        self._ids_from = 0
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
        """All topics; a row whose settings mean nothing has those that delete nothing."""
        rows = self._db.execute(
            "SELECT name, partitions, configs, coalesce(id, '') "
            "FROM topics LEFT JOIN topic_ids USING (name) ORDER BY name"
        )
        return [TopicRow(name, count, _readable(name, configs), id_) for name, count, configs, id_ in rows]

    def put_topic(self, topic: TopicRow) -> None:
        """Creates a topic or changes its partition count or settings."""
        with self._transaction(durable=True) as db:
            row = (topic.name, topic.partitions, json.dumps(topic.configs))
            db.execute("INSERT OR REPLACE INTO topics VALUES (?, ?, ?)", row)
            db.execute("INSERT OR REPLACE INTO topic_ids VALUES (?, ?)", (topic.name, topic.id))

    def cluster_id(self) -> str:
        """The log's id as it stands here, "" where it does not."""
        row = self._db.execute("SELECT value FROM identity WHERE name = 'cluster'").fetchone()
        return str(row[0]) if row else ""

    def set_cluster_id(self, value: str) -> None:
        """Remembers it."""
        with self._transaction(durable=True) as db:
            db.execute("INSERT OR REPLACE INTO identity VALUES ('cluster', ?)", (value,))

    def drop_topic(self, name: str) -> None:
        """Forgets a topic and all positions in it."""
        with self._transaction(durable=True) as db:
            db.execute("DELETE FROM topics WHERE name = ?", (name,))
            db.execute("DELETE FROM topic_ids WHERE name = ?", (name,))
            db.execute("DELETE FROM starts WHERE topic = ?", (name,))
            db.execute("DELETE FROM offsets WHERE topic = ?", (name,))

    def given(self, topic: str, partition: int) -> int:
        """Where the next offset cannot lie below, by what was deleted and by what the archive has read."""
        where = "SELECT next_offset FROM offsets WHERE group_id = ? AND topic = ? AND partition = ?"
        read = self._db.execute(where, (ARCHIVER_GROUP, topic, partition)).fetchone()
        return max(self.log_start(topic, partition), int(read[0]) if read else 0)

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

    def draw_ids_above(self, highest: int, *, topics: bool) -> None:
        """From now on producer ids are greater than `highest`, the greatest in the log, and than any given before.

        The count is kept here and in the file `producer-ids`; where it is behind the log, or both are gone beside
        `topics`, clients may hold ids that nobody knows of.
        """
        row = self._db.execute("SELECT value FROM counters WHERE name = 'producer_id'").fetchone()
        known = max(int(row[0]) if row else 0, self._noted_ids())
        lost = highest >= known or (topics and not known)
        self._ids_from = highest + 1 + IDS_LEAP if lost and topics else max(known, highest + 1)
        self._producer_ids = iter(range(0))

    def _noted_ids(self) -> int:
        try:
            with self._ids_note.open("rb") as file:
                noted = file.read(_ID_DIGITS + 1).strip()
        except OSError:
            return 0
        return int(noted) if noted.isdigit() and int(noted) < _MOST_IDS else 0

    def new_producer_id(self) -> int:
        """An id that was never given before.

        Raises:
            OSError, sqlite3.Error: that cannot be promised now.
        """
        given = next(self._producer_ids, None)
        if given is not None:
            return given
        with self._transaction(durable=True) as db:
            row = db.execute("SELECT value FROM counters WHERE name = 'producer_id'").fetchone()
            first = max(int(row[0]) if row else 0, self._ids_from)
            db.execute("INSERT OR REPLACE INTO counters VALUES ('producer_id', ?)", (first + _PRODUCER_IDS,))
            write_durably(self._ids_note, f"{first + _PRODUCER_IDS}\n")
        self._ids_from = first + _PRODUCER_IDS
        self._producer_ids = iter(range(first, first + _PRODUCER_IDS))
        return next(self._producer_ids)

    def close(self) -> None:
        """Folds the write-ahead log into the file and closes it."""
        self._db.close()


def _readable(name: str, configs: str) -> dict[str, str]:
    try:
        found = json.loads(configs)
        parsed(found)
    except (ValueError, TypeError, AttributeError, RecursionError, Refused) as error:
        _LOG.warning(
            "meta.db: the settings of topic %r cannot be used (%s): it keeps its records for ever", name, error
        )
        return {"retention.ms": "-1"}
    return dict(found)


def write_durably(path: Path, text: str) -> None:
    """Replaces a small file in one piece; it is on the disk when this returns."""
    write_whole(path, text, durable=True)


def write_whole(path: Path, text: str, *, durable: bool = False) -> None:
    """Replaces a small file in one piece."""
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)  # what stands there is left from a crash, or a link that nobody should write through
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    draft.replace(path)
    if durable:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """A new name in a folder is on the disk when this returns."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
