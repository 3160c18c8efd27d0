"""A log's folder that somebody else made: nothing outside it is touched, and what is none of ours is named and left."""

from __future__ import annotations

import json
import os
import socket
import sqlite3

import pytest
from kio.schema.errors import ErrorCode

from esper.errors import LogUnavailable
from streams.broker.batch import checked
from streams.broker.launch import start_broker
from streams.broker.protocol import Refused
from streams.broker.registry import TopicRow
from streams.broker.segment import segment_path
from streams.broker.segment_index import Index, Sidecar
from streams.broker.store import Store


@pytest.fixture
def log(tmp_path, batch_of):
    """A log with one topic of five records, closed."""
    folder = tmp_path / "log"
    store = Store(folder)
    store.create(TopicRow("esper.runs", 2, {}))
    fill(store, batch_of, 5)
    store.close()
    return folder


def fill(store, batch_of, count):
    for _ in range(count):
        records = batch_of(b"x" * 100)
        store.partition("esper.runs", 0).append(records, checked(records, 10_000), 1_000, 1 << 20)


@pytest.fixture
def victim(tmp_path):
    """Somebody's folder outside the log."""
    folder = tmp_path / "victim"
    (folder / "papers.1").mkdir(parents=True)
    (folder / "papers.1" / "thesis").write_text("years of work")
    (folder / "00000000000000000000.log").write_text("mine")
    (folder / "key").write_text("secret")
    return folder


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def replaced_by_link(path, target):
    if path.is_dir():
        path.rename(path.with_name("moved-away"))
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["deleted", "topics"])
def test_a_folder_of_ours_that_is_a_link_is_refused_and_its_target_stays(log, victim, name):
    replaced_by_link(log / name, victim)
    before = contents(victim)
    with pytest.raises(LogUnavailable, match=f"log/{name} is a symbolic link: the log follows none"):
        Store(log)

    assert contents(victim) == before


@pytest.mark.parametrize("name", ["owner", "boot", "boot.draft", "cluster", "meta.db", "producer-ids", "lock"])
def test_a_file_of_ours_that_is_a_link_is_refused_and_its_target_stays(log, victim, name):
    replaced_by_link(log / name, victim / "key")
    before = contents(victim)
    with pytest.raises(LogUnavailable, match=f"log/{name} is a symbolic link"):
        Store(log)

    assert contents(victim) == before


def test_what_the_broker_says_is_not_written_through_a_link(log, victim):
    replaced_by_link(log / "broker.log", victim / "key")
    with pytest.raises(LogUnavailable, match=r"broker\.log is no plain file"):
        start_broker(log.parent)

    assert (victim / "key").read_text() == "secret"


@pytest.mark.parametrize("place", ["esper.runs", "esper.runs/0"])
def test_a_topic_whose_folder_is_a_link_is_left_out_and_cannot_be_made(log, victim, place, caplog):
    replaced_by_link(log / "topics" / place, victim)
    before = contents(victim)
    store = Store(log)
    with pytest.raises(Refused, match="holds what this log has not written: move it away") as refused:
        store.create(TopicRow("esper.runs", 2, {}))
    store.retain(10**15)
    store.close()

    assert refused.value.code is ErrorCode.policy_violation
    assert contents(victim) == before
    assert "esper.runs" in caplog.text


@pytest.mark.parametrize("name", ["../../victim", "..", "a/b", "", "x" * 250, "a\0b"])
def test_a_topic_of_the_registry_with_a_name_that_is_none_is_left_out(log, victim, name, caplog):
    with sqlite3.connect(log / "meta.db") as db:
        db.execute("INSERT INTO topics VALUES (?, 1, ?)", (name, json.dumps({"retention.ms": "1"})))
    db.close()
    before = contents(victim)
    store = Store(log)
    found = set(store.topics)
    store.retain(10**15)
    store.close()

    assert found == {"esper.runs"}
    assert contents(victim) == before
    assert "has no folder that can be used: it is left out" in caplog.text


@pytest.mark.parametrize("configs", ["no json", "[]", '{"retention.ms": 5}', '{"compaction": "yes"}', "{" * 100_000])
def test_settings_that_mean_nothing_delete_nothing(log, configs, caplog):
    with sqlite3.connect(log / "meta.db") as db:
        db.execute("UPDATE topics SET configs = ?", (configs,))
    db.close()
    (log / "topics" / "esper.runs" / "topic.json").unlink()
    store = Store(log)
    row = store.topics["esper.runs"].row
    store.close()

    assert row.configs == {"retention.ms": "-1"}
    assert "settings of topic 'esper.runs' cannot be used" in caplog.text


@pytest.mark.parametrize("note", ["", "[]", "{" * 100_000, '{"topic": "esper.runs"}', "\xff", None])
def test_a_note_that_means_nothing_is_made_again(log, note, caplog):
    path = log / "topics" / "esper.runs" / "topic.json"
    good = path.read_text()
    if note is None:
        note = good.replace('"partitions": 2', '"partitions": 2000')
    path.write_text(note, encoding="latin-1")
    Store(log).close()

    assert path.read_text() == good
    assert "topic.json cannot be used" in caplog.text


@pytest.mark.parametrize("name", ["boot", "cluster", "producer-ids", "owner"])
@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"9" * 100_000])
def test_a_note_of_ours_that_says_nothing_is_no_error(log, name, content, batch_of):
    (log / name).write_bytes(content)
    store = Store(log)
    fill(store, batch_of, 1)
    given = store.registry.new_producer_id()
    end, cluster = store.partition("esper.runs", 0).end, store.cluster_id
    store.close()

    assert end >= 6
    assert 0 <= given < 2**61
    assert len(cluster) == 22


def strange(folder):
    """Puts everything into a folder that has no business there."""
    (folder / "00000000000000000000 (conflicted copy).log").write_text("from a file synchroniser")
    (folder / "notes.log").write_text("mine")
    (folder / "99999999999999999999.log").write_text("an offset beyond all")
    (folder / "00000000000000000003.log").mkdir()
    (folder / "00000000000000000004.log").symlink_to("/etc/passwd")
    (folder / "²").mkdir()
    os.mkfifo(folder / "00000000000000000005.log")
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.open(".", os.O_RDONLY)
        os.chdir(folder)  # the name of a socket has at most 108 bytes
        sock.bind("00000000000000000006.log")
        os.fchdir(here)
        os.close(here)


@pytest.mark.parametrize("place", ["topics/esper.runs/0", "topics/esper.runs", "topics", "deleted", "."])
def test_strange_names_are_stepped_over_and_left(log, place, caplog, batch_of):
    strange(log / place)
    before = sorted(path.name for path in (log / place).iterdir())
    store = Store(log)
    partition = store.partition("esper.runs", 0)
    fill(store, batch_of, 1)
    found = partition.start, partition.end, set(store.topics)
    store.close()

    assert found == (0, 6, {"esper.runs"})
    assert set(before) <= {path.name for path in (log / place).iterdir()}
    if place in {"topics/esper.runs/0", "topics", "deleted"}:
        assert "(conflicted copy).log is nothing that this log has written" in caplog.text


def test_a_sparse_file_of_terabytes_does_not_hold_up_the_start(log, batch_of, caplog):
    path = log / "topics" / "esper.runs" / "0" / f"{100:020d}.log"
    path.touch()
    os.truncate(path, 1 << 42)
    store = Store(log)
    fill(store, batch_of, 1)
    end = store.partition("esper.runs", 0).end
    store.close()

    assert end == 6
    assert f"{path} is nothing that this log has written" in caplog.text


def test_a_pipe_in_a_files_place_does_not_hold_up_the_start(log):
    folder = log / "topics" / "esper.runs" / "0"
    os.mkfifo(folder / "00000000000000000000.index")
    Store(log).close()
    (folder / "tail").unlink()
    os.mkfifo(folder / "tail")
    with pytest.raises(LogUnavailable, match="tail is no plain file: move it away"):
        Store(log)


def test_an_index_of_a_strangers_making_reads_nothing_outside_its_segment(log, batch_of):
    """Its checksum is right, its numbers are not."""
    folder = log / "topics" / "esper.runs" / "0"
    size = segment_path(folder, 0).stat().st_size
    segment_path(folder, 5).touch()
    for positions, holes, snapshot in [([size * 9], [], b"[]"), ([0], [], b"[[1]]"), ([], [], b"[]"), ([0], [], b"{}")]:
        index = Index(5, size, 1_000)
        for position in positions:
            index.offsets.append(0)
            index.positions.append(position)
            index.latest.append(1_000)
        index.holes = holes
        Sidecar(index, snapshot, None).save(segment_path(folder, 0).with_suffix(".index"))
        store = Store(log)
        data = store.partition("esper.runs", 0).read(0, 1 << 20)
        store.close()

        assert len(data) == size
