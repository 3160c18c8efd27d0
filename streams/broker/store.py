"""All topics of a data folder: who owns the folder, what is in it, when it goes to the disk and when it is dropped."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from kio.schema.errors import ErrorCode

from contracts.topics import ARCHIVER_GROUP
from esper.errors import LogUnavailable
from streams.broker.partition import Partition, PartitionState
from streams.broker.protocol import Refused
from streams.broker.registry import Registry, TopicConfig, TopicRow, parsed

_LOG: Final = logging.getLogger(__name__)
MAX_PARTITIONS: Final = 2_000
"""Of all topics together; each has two files open."""
SEGMENTS_IN_RETENTION: Final = 4
"""A segment spans at most this part of its topic's retention, so records leave at most so much too late."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def now_ms() -> int:
    """The wall clock in milliseconds, as record timestamps are."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Topic:
    """A topic with its open partitions."""

    row: TopicRow
    config: TopicConfig
    partitions: list[Partition]


class Store:
    """The data folder of one broker, locked as long as this object is open.

    `written` is set whenever a partition has something that the disk lacks.

    Layout: `lock`, `owner`, `boot` (the machine's boot,
    and whether the last stop was clean), `meta.db`, `topics/NAME/NUMBER/`, `deleted/` (topics being deleted).
    """

    def __init__(self, folder: Path) -> None:
        """Opens or creates it and recovers whatever a crash left.

        Raises:
            LogUnavailable: another broker has it, or it cannot be written.
        """
        self.written = asyncio.Event()
        self._folder = folder
        self._topics_folder = folder / "topics"
        self._deleted = folder / "deleted"
        try:
            for path in (folder, self._topics_folder, self._deleted):
                path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
            self._machine_died = self._note_start()
            self.registry = Registry(folder / "meta.db")
        except OSError as error:
            raise LogUnavailable(f"{folder}: {error.strerror}: choose a folder that can be written") from error
        except sqlite3.Error as error:
            raise LogUnavailable(f"{folder / 'meta.db'}: {error}: restore it or move the folder away") from error
        self._empty_deleted()
        self.topics = {row.name: self._open(row) for row in self.registry.topics() if self._exists(row)}

    def _note_start(self) -> bool:
        """Whether the machine died under the last broker; from here on the stop counts as unclean."""
        note = self._folder / "boot"
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"
        before = note.read_text().strip() if note.exists() else "clean"
        _write_durably(note, boot)
        return before != "clean" and (before != boot or boot == "unknown")

    def _empty_deleted(self) -> None:
        for path in self._deleted.iterdir():
            shutil.rmtree(path, ignore_errors=True)

    def _exists(self, row: TopicRow) -> bool:
        """False for a topic whose deletion a crash interrupted, which is completed."""
        if (self._topics_folder / row.name).is_dir():
            return True
        _LOG.warning("topic %s has no folder: its deletion was interrupted and is completed", row.name)
        self.registry.drop_topic(row.name)
        return False

    def _open(self, row: TopicRow) -> Topic:
        return Topic(row, parsed(row.configs), [self._open_partition(row.name, i) for i in range(row.partitions)])

    def _open_partition(self, topic: str, number: int) -> Partition:
        folder = self._topics_folder / topic / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        start = self.registry.log_start(topic, number)
        state = PartitionState(self._machine_died, start, now_ms(), self.written)
        return Partition(folder, f"{topic}-{number}", state)

    def partition(self, topic: str, number: int) -> Partition:
        """An open partition.

        Raises:
            Refused: there is none.
        """
        found = self.topics.get(topic)
        if found is None or not 0 <= number < len(found.partitions):
            raise Refused(ErrorCode.unknown_topic_or_partition, f"{topic}-{number} does not exist: create it first")
        return found.partitions[number]

    def partitions(self) -> Iterator[tuple[Topic, int, Partition]]:
        """All open partitions."""
        for topic in self.topics.values():
            for number, partition in enumerate(topic.partitions):
                yield topic, number, partition

    def create(self, row: TopicRow) -> None:
        """Creates a topic, or adds the partitions that `row` has more.

        Raises:
            Refused: there would be too many partitions.
            OSError, sqlite3.Error: the disk refuses; the topic is as it was.
        """
        opened = self.topics.get(row.name)
        first = len(opened.partitions) if opened else 0
        if sum(len(topic.partitions) for topic in self.topics.values()) + row.partitions - first > MAX_PARTITIONS:
            why = f"{row.name}: more than {MAX_PARTITIONS} partitions in all: delete topics that are not needed"
            raise Refused(ErrorCode.invalid_partitions, why)
        added: list[Partition] = []
        try:
            added += (self._open_partition(row.name, number) for number in range(first, row.partitions))
            for folder in (self._topics_folder / row.name, self._topics_folder):
                _sync_folder(folder)
            self.registry.put_topic(row)
        except (OSError, sqlite3.Error):
            for partition in added:
                partition.close()
            raise
        self.topics[row.name] = Topic(row, parsed(row.configs), [*(opened.partitions if opened else ()), *added])

    def delete(self, name: str) -> None:
        """Deletes a topic: first out of sight, then from the registry, then from the disk."""
        topic = self.topics.pop(name)
        for partition in topic.partitions:
            partition.close()
            for wake in tuple(partition.waiters):
                wake()
        grave = self._deleted / f"{name}.{time.time_ns()}"
        (self._topics_folder / name).rename(grave)
        _sync_folder(self._topics_folder)
        self.registry.drop_topic(name)
        shutil.rmtree(grave, ignore_errors=True)

    def delete_before(self, topic: str, number: int, offset: int) -> int:
        """Deletes records below `offset` (-1: all); the new start.

        Raises:
            Refused: no such partition, or no such offset yet.
        """
        partition = self.partition(topic, number)
        offset = partition.end if offset == -1 else offset
        if not 0 <= offset <= partition.end:
            raise Refused(ErrorCode.offset_out_of_range, f"{partition.name} ends at {partition.end}, not at {offset}")
        if offset > partition.start:
            self.registry.set_log_start(topic, number, offset)
            partition.delete_before(offset)
        return partition.start

    def retain(self, at_ms: int) -> None:
        """Drops what is older than its topic keeps it and is in the archive; forgets silent producers."""
        archived = self.registry.committed(ARCHIVER_GROUP)
        for topic, number, partition in self.partitions():
            partition.producers.expire(at_ms)
            position = archived.get((topic.row.name, number))
            if topic.config.retention_ms < 0:
                continue
            partition.roll_if_begun_before(at_ms - topic.config.retention_ms // SEGMENTS_IN_RETENTION)
            if position is None:
                continue
            offset = min(partition.expired_before(at_ms - topic.config.retention_ms), position.next_offset)
            if offset > partition.start:
                self.delete_before(topic.row.name, number, offset)

    def close(self) -> None:
        """Puts everything on the disk, notes a clean stop and lets go of the folder."""
        for _, _, partition in self.partitions():
            partition.close()
        self.registry.close()
        with suppress(OSError):  # a full disk: the next start takes the stop for a crash, which is safe
            _write_durably(self._folder / "boot", "clean")
        self._lock.release()


def _locked(folder: Path) -> FileLock:
    """The folder's lock, held until it is released or its process dies. `owner` says whose it is, for people."""
    lock, owner = FileLock(folder / "lock"), folder / "owner"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        process = owner.read_text(encoding="ascii").strip() if owner.exists() else "unknown"
        raise LogUnavailable(f"{folder} is in use by process {process}: stop it or choose another folder") from None
    owner.write_text(f"{os.getpid()}\n", encoding="ascii")
    return lock


def _write_durably(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
