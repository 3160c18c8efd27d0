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
from streams.broker.folder import (
    cluster_id,
    drop_note,
    graves,
    is_free,
    new_id,
    of_one_topic,
    open_file,
    read_note,
    read_small,
    refuse_links,
    settled,
    topic_folders,
    valid_name,
    write_note,
)
from streams.broker.partition import Partition, PartitionState
from streams.broker.protocol import Refused
from streams.broker.registry import (
    MAX_PARTITIONS,
    Registry,
    TopicConfig,
    TopicRow,
    parsed,
    sync_folder,
    write_durably,
)

_LOG: Final = logging.getLogger(__name__)
SEGMENTS_IN_RETENTION: Final = 4
TRIAL_BYTES: Final = 64 * 1024
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

    Layout: `lock`, `owner`, `boot` (the machine's boot, and whether the last stop was clean), `cluster` (the log's id),
    `meta.db`, `producer-ids`, `trial` (for a moment), `topics/NAME/topic.json`, `topics/NAME/NUMBER/`, `deleted/`
    (topics being deleted).
    """

    def __init__(self, folder: Path) -> None:
        """Opens or creates it and recovers whatever a crash left.

        Raises:
            LogUnavailable: another broker has it, it cannot be written, or it is not made of files and folders.
        """
        self.written = asyncio.Event()
        self._folder = folder
        self._topics_folder = folder / "topics"
        self._deleted = folder / "deleted"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            refuse_links(folder)
            for path in (self._topics_folder, self._deleted):
                path.mkdir(exist_ok=True)
            self._lock = _locked(folder)
            self._machine_died = self._note_start()
            self.registry = Registry(folder / "meta.db")
            self._settle_cluster()
        except OSError as error:
            raise LogUnavailable(f"{folder}: {error.strerror}: choose a folder that can be written") from error
        except sqlite3.Error as error:
            why = f"{folder / 'meta.db'}: {error}: move it and its -wal and -shm away; it is made again from the topics"
            raise LogUnavailable(f"{why}, without the positions of consumers") from error
        self.topics: dict[str, Topic] = {}
        self._open_all(self._empty_deleted())
        highest = max((p.producers.highest for _, _, p in self.partitions()), default=-1)
        self.registry.draw_ids_above(highest, topics=bool(self.topics))

    def _settle_cluster(self) -> None:
        registered = self.registry.cluster_id()
        self.cluster_id = cluster_id(self._folder, registered)
        if registered != self.cluster_id:
            if registered:
                _LOG.error("%s: meta.db is another log's (%s, this is %s)", self._folder, registered, self.cluster_id)
            self.registry.set_cluster_id(self.cluster_id)

    def _note_start(self) -> bool:
        """Whether the machine died under the last broker; from here on the stop counts as unclean."""
        note = self._folder / "boot"
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"
        before = read_small(note) or "clean"
        write_durably(note, boot)
        return before != "clean" and (before != boot or boot == "unknown")

    def _empty_deleted(self) -> set[str]:
        """Completes deletions that a crash interrupted; the topics' names."""
        found = set()
        for name, path in graves(self._deleted):
            shutil.rmtree(path, ignore_errors=True)
            found.add(name)
        return found

    def _open_all(self, deleted: set[str]) -> None:
        """Opens each topic of the registry, of the folder, or of both, as far as they can be believed."""
        rows = {row.name: row for row in self.registry.topics()}
        folders = topic_folders(self._topics_folder)
        for name in sorted(rows.keys() | folders.keys()):
            if name in folders:
                self._take_up(name, rows.get(name), folders[name])
            elif not is_free(self._topics_folder, name) or not valid_name(name):
                _LOG.error("meta.db: topic %r has no folder that can be used: it is left out", name)
            else:
                self._complete_deletion(name, lost=name not in deleted)

    def _complete_deletion(self, name: str, *, lost: bool) -> None:
        if lost:
            _LOG.error("topic %s is lost: its folder is not there; it can be created anew, as another topic", name)
        else:
            _LOG.warning("topic %s has no folder: its deletion was interrupted and is completed", name)
        self.registry.drop_topic(name)

    def _take_up(self, name: str, row: TopicRow | None, folder: Path) -> None:
        found = settled(name, row, folder)
        if found is None:
            return
        others = sum(len(topic.partitions) for topic in self.topics.values())
        if others + found.partitions > MAX_PARTITIONS:
            _LOG.error("topic %s is left out: more than %d partitions in all", name, MAX_PARTITIONS)
            return
        if row is None:
            _LOG.warning("topic %s is in its folder and not in the registry: it is taken up as it is", name)
        elif not of_one_topic(name, row, folder):
            _LOG.error("topic %s is not the one that the registry knows: positions in it begin anew", name)
            self.registry.drop_topic(name)
            row = None
        if found != row:
            self.registry.put_topic(found)
        if found != read_note(folder, name):
            write_note(folder, found)
        self.topics[name] = self._open(found)

    def _open(self, row: TopicRow) -> Topic:
        for number in range(row.partitions):
            if not (self._topics_folder / row.name / str(number)).is_dir():
                _LOG.error("%s/%d is not there: its records are lost", self._topics_folder / row.name, number)
        return Topic(row, parsed(row.configs), [self._open_partition(row, i) for i in range(row.partitions)])

    def _open_partition(self, row: TopicRow, number: int) -> Partition:
        folder = self._topics_folder / row.name / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        start, given = self.registry.log_start(row.name, number), self.registry.given(row.name, number)
        state = PartitionState(self._machine_died, start, now_ms(), self.written, given, row.id)
        try:
            return Partition(folder, f"{row.name}-{number}", state)
        except OSError as error:
            raise LogUnavailable(f"{folder}: {error.strerror}: mend what is wrong with it, or move it away") from error

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
            Refused: there would be too many partitions, or something else stands in its place.
            OSError, sqlite3.Error: the disk refuses; the topic is as it was.
        """
        opened = self.topics.get(row.name)
        first = len(opened.partitions) if opened else 0
        if sum(len(topic.partitions) for topic in self.topics.values()) + row.partitions - first > MAX_PARTITIONS:
            why = f"{row.name}: more than {MAX_PARTITIONS} partitions in all: take fewer for each topic"
            raise Refused(ErrorCode.invalid_partitions, why)
        folder = self._topics_folder / row.name
        if opened is None and not is_free(self._topics_folder, row.name):
            why = f"{folder} holds what this log has not written: move it away, then create the topic"
            raise Refused(ErrorCode.policy_violation, why)
        row = row if row.id else row._replace(id=new_id())
        added: list[Partition] = []
        try:
            folder.mkdir(exist_ok=True)
            write_note(folder, row)
            added += (self._open_partition(row, number) for number in range(first, row.partitions))
            for each in (folder, self._topics_folder):
                sync_folder(each)
            self.registry.put_topic(row)
        except (OSError, sqlite3.Error):
            for partition in added:
                partition.close()
            if opened is None:
                drop_note(folder)  # a start would take it for a topic
            raise
        self.topics[row.name] = Topic(row, parsed(row.configs), [*(opened.partitions if opened else ()), *added])

    def alter(self, name: str, configs: dict[str, str]) -> None:
        """Gives a topic these settings and no others.

        Raises:
            Refused: one of them means nothing here.
            OSError, sqlite3.Error: the disk refuses; the topic is as it was.
        """
        topic = self.topics[name]
        config, row = parsed(configs), topic.row._replace(configs=configs)
        write_note(self._topics_folder / name, row)
        self.registry.put_topic(row)
        topic.row, topic.config = row, config

    def delete(self, name: str) -> None:
        """Deletes a topic: first out of sight, then from the registry, then from the disk."""
        topic = self.topics.pop(name)
        for partition in topic.partitions:
            partition.close()
            for wake in tuple(partition.waiters):
                wake()
        grave = self._deleted / f"{name}.{time.time_ns()}"
        (self._topics_folder / name).rename(grave)
        sync_folder(self._topics_folder)
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

    def try_disk(self) -> None:
        """Writes as much as a producer's batch beside the topics, and takes it away again.

        Raises:
            OSError: the disk takes no batch now.
        """
        path = self._folder / "trial"
        try:
            path.write_bytes(bytes(TRIAL_BYTES))
        finally:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Puts everything on the disk, notes a clean stop and lets go of the folder."""
        for _, _, partition in self.partitions():
            partition.close()
        self.registry.close()
        with suppress(OSError):  # a full disk: the next start takes the stop for a crash, which is safe
            write_durably(self._folder / "boot", "clean")
        self._lock.release()


def _locked(folder: Path) -> FileLock:
    """The folder's lock, held until it is released or its process dies. `owner` says whose it is, for people."""
    lock, owner = FileLock(folder / "lock"), folder / "owner"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        process = read_small(owner) or "unknown"
        raise LogUnavailable(f"{folder} is in use by process {process}: stop it or choose another folder") from None
    with os.fdopen(open_file(owner, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w") as file:
        file.write(f"{os.getpid()}\n")
    return lock
