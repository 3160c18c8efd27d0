"""The data folder: one owner, topics that stay or go for good, retention that waits for the archive."""

from __future__ import annotations

import sqlite3

import pytest
from kio.schema.errors import ErrorCode

from contracts.topics import ARCHIVER_GROUP
from esper.errors import LogUnavailable
from streams.broker.batch import checked
from streams.broker.protocol import Refused
from streams.broker.registry import Committed, Registry, TopicRow, parsed
from streams.broker.store import Store

DAY_MS = 86_400_000


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "log")
    yield store
    store.close()


def fill(store, batch_of, count, *, topic="t", timestamp=1_000):
    """`count` batches of 400 bytes in a topic with segments of 1 KiB."""
    if topic not in store.topics:
        store.create(TopicRow(topic, 1, {"segment.bytes": "1024", "retention.ms": str(DAY_MS)}))
    partition = store.partition(topic, 0)
    for _ in range(count):
        records = batch_of(b"x" * 400, timestamp=timestamp)
        partition.append(records, checked(records, 10_000), timestamp, 1024)
    return partition


def test_a_folder_has_one_owner(store, tmp_path):
    with pytest.raises(LogUnavailable, match=r"log is in use by process \d+: stop it"):
        Store(tmp_path / "log")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LogUnavailable, match="file/log: Not a directory: choose a folder"):
        Store(tmp_path / "file" / "log")


def test_a_registry_that_is_none_is_named(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "meta.db").write_bytes(b"no database" * 100)
    with pytest.raises(LogUnavailable, match=r"meta.db: file is not a database: move it and its -wal"):
        Store(tmp_path / "log")


def test_topics_positions_and_ids_outlive_a_restart(tmp_path, batch_of):
    first = Store(tmp_path / "log")
    fill(first, batch_of, 5)
    first.registry.commit("g", {("t", 0): Committed(3, "note")})
    first.registry.set_generation("g", 9)
    ids = [first.registry.new_producer_id() for _ in range(3)]
    first.close()
    second = Store(tmp_path / "log")
    assert second.partition("t", 0).end == 5
    assert second.topics["t"].row.configs["segment.bytes"] == "1024"
    assert second.registry.committed("g") == {("t", 0): Committed(3, "note")}
    assert second.registry.generation("g") == 9
    assert second.registry.new_producer_id() > max(ids)
    second.close()


def test_nothing_is_deleted_that_the_archive_has_not_committed(store, batch_of):
    """Expired a week ago, and kept for as long as it takes."""
    partition = fill(store, batch_of, 20)
    store.retain(8 * DAY_MS)
    assert partition.start == 0
    store.registry.commit("somebody-else", {("t", 0): Committed(20, None)})
    store.retain(8 * DAY_MS)
    assert partition.start == 0
    store.registry.commit(ARCHIVER_GROUP, {("t", 0): Committed(7, None)})
    store.retain(8 * DAY_MS)
    assert partition.start == 7
    assert partition.read(7, 100)
    store.registry.commit(ARCHIVER_GROUP, {("t", 0): Committed(20, None)})
    store.retain(8 * DAY_MS)
    assert (partition.start, partition.end, partition.size) == (20, 20, 0)


def test_a_segment_is_closed_when_it_spans_a_quarter_of_the_retention(store, batch_of):
    """So that a topic with little traffic expires, too, and not only when a segment is full."""
    store.create(TopicRow("quiet", 1, {"retention.ms": str(DAY_MS)}))
    partition = store.partition("quiet", 0)
    for hour in range(36):
        records = batch_of(b"x", timestamp=hour * DAY_MS // 24)
        partition.append(records, checked(records, 10_000), hour * DAY_MS // 24, 10**6)
        store.retain(hour * DAY_MS // 24)
    store.registry.commit(ARCHIVER_GROUP, {("quiet", 0): Committed(36, None)})
    store.retain(36 * DAY_MS // 24)
    assert 6 <= partition.start <= 12
    assert partition.end == 36


@pytest.mark.parametrize(("clock", "kept"), [(1, True), (2**50, True), (1, False), (2**50, False)])
def test_a_producers_clock_neither_keeps_nor_deletes(store, batch_of, clock, kept):
    """Records of 1970 and of the far future, appended an hour or a week ago."""
    store.create(TopicRow("t", 1, {"segment.bytes": "1024", "retention.ms": str(DAY_MS)}))
    partition = store.partition("t", 0)
    appended = 10 * DAY_MS
    for _ in range(20):
        records = batch_of(b"x" * 400, timestamp=clock)
        partition.append(records, checked(records, 10_000), appended, 1024)
    store.registry.commit(ARCHIVER_GROUP, {("t", 0): Committed(20, None)})
    store.retain(appended + (3_600_000 if kept else 7 * DAY_MS))

    assert partition.start == (0 if kept else 20)


def test_a_segment_of_before_the_start_is_kept_from_its_files_last_change(tmp_path, batch_of):
    first = Store(tmp_path / "log")
    fill(first, batch_of, 20, timestamp=1)
    first.registry.commit(ARCHIVER_GROUP, {("t", 0): Committed(20, None)})
    first.close()
    changed = max(path.stat().st_mtime for path in (tmp_path / "log" / "topics" / "t" / "0").glob("*.log"))
    second = Store(tmp_path / "log")
    second.retain(int(changed * 1000) + DAY_MS - 1000)
    kept = second.partition("t", 0).start
    second.retain(int(changed * 1000) + DAY_MS + 1000)

    assert (kept, second.partition("t", 0).start) == (0, 20)
    second.close()


def test_what_is_young_or_kept_for_ever_stays(store, batch_of):
    young = fill(store, batch_of, 10, timestamp=8 * DAY_MS)
    store.create(TopicRow("kept", 1, {"segment.bytes": "1024", "retention.ms": "-1"}))
    kept = fill(store, batch_of, 10, topic="kept")
    store.registry.commit(ARCHIVER_GROUP, {("t", 0): Committed(10, None), ("kept", 0): Committed(10, None)})
    store.retain(8 * DAY_MS + 1)
    assert (young.start, kept.start) == (0, 0)


def test_a_deleted_start_stays_deleted(tmp_path, batch_of):
    first = Store(tmp_path / "log")
    fill(first, batch_of, 10)
    assert first.delete_before("t", 0, 4) == 4
    with pytest.raises(Refused):
        first.delete_before("t", 0, 11)
    first.close()
    second = Store(tmp_path / "log")
    assert second.partition("t", 0).start == 4
    assert second.delete_before("t", 0, -1) == 10
    second.close()


def test_a_topic_made_again_knows_nothing_of_the_one_before(store, batch_of):
    fill(store, batch_of, 5)
    store.registry.commit("g", {("t", 0): Committed(3, None)})
    store.delete("t")
    assert store.registry.committed("g") == {}
    assert fill(store, batch_of, 1).end == 1


def test_an_interrupted_deletion_is_completed(tmp_path, batch_of):
    """The process died after the folder was out of the way and before the registry knew."""
    first = Store(tmp_path / "log")
    fill(first, batch_of, 5)
    first.close()
    (tmp_path / "log" / "topics" / "t").rename(tmp_path / "log" / "deleted" / "t.1")
    second = Store(tmp_path / "log")
    assert second.topics == {}
    assert second.registry.topics() == []
    assert list((tmp_path / "log" / "deleted").iterdir()) == []
    second.close()


def test_only_an_unclean_stop_on_another_boot_means_that_the_machine_died(tmp_path):
    def restart(note):
        store = Store(tmp_path / "log")
        store.close()
        if note:
            (tmp_path / "log" / "boot").write_text(note)
        again = Store(tmp_path / "log")
        died = again._machine_died
        again.close()
        return died

    assert not restart("")  # clean stop
    assert restart("an-older-boot")
    running = Store(tmp_path / "log")
    this_boot = (tmp_path / "log" / "boot").read_text()
    running.close()
    assert not restart(this_boot)  # kill -9


def test_a_topic_that_cannot_be_registered_is_not_there(store, monkeypatch):
    def full(_row):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store.registry, "put_topic", full)
    with pytest.raises(sqlite3.OperationalError):
        store.create(TopicRow("t", 2, {}))
    monkeypatch.undo()
    assert store.topics == {}
    store.create(TopicRow("t", 2, {}))
    assert len(store.topics["t"].partitions) == 2


def test_there_is_a_limit_of_partitions(store):
    with pytest.raises(Refused, match="more than 2000 partitions in all") as refused:
        store.create(TopicRow("t", 2_001, {}))
    assert refused.value.code is ErrorCode.invalid_partitions


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("cleanup.policy", "compact", "this broker knows delete"),
        ("retention.ms", "soon", "a number from -1"),
        ("retention.ms", "-2", "a number from -1"),
        ("segment.bytes", "10", "a number from 1024"),
        ("min.insync.replicas", "2", "this broker knows cleanup.policy"),
    ],
)
def test_a_config_that_means_nothing_here_is_refused(name, value, says):
    with pytest.raises(Refused, match=says) as refused:
        parsed({name: value})
    assert refused.value.code is ErrorCode.invalid_config


def test_a_commit_is_whole_or_not_at_all(tmp_path):
    registry = Registry(tmp_path / "meta.db")
    registry.commit("g", {("t", 0): Committed(1, None)})
    with pytest.raises(sqlite3.Error):
        registry.commit("g", {("t", 0): Committed(2, None), ("t", 1): Committed("no number", None)})
    assert registry.committed("g") == {("t", 0): Committed(1, None)}
    registry.close()
