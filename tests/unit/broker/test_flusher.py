"""When records reach the disk, and what happens when they cannot."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
import pytest_asyncio

from streams.broker.batch import checked
from streams.broker.core import Caller, Core
from streams.broker.handlers.records import LongPoll, fetch
from streams.broker.protocol import Refused
from streams.broker.registry import TopicRow
from streams.broker.server import FLUSH_AFTER_S, Flusher
from streams.broker.store import Store

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def flusher():
    flusher = Flusher()
    yield flusher
    flusher.close()


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "log")
    store.create(TopicRow("t", 2, {}))
    yield store
    store.close()


def append(partition, records):
    return partition.append(records, checked(records, 10_000), 0, 10_000_000)


@pytest.fixture
def syncs(monkeypatch):
    """Counts syncs; each waits for `gate`."""
    done, gate, real = [], threading.Event(), os.fdatasync
    gate.set()

    def slow(fd):
        gate.wait(5)
        done.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    return done, gate


async def test_sync_returns_only_when_the_disk_has_it(flusher, store, syncs, batch_of):
    partition = store.partition("t", 0)
    done, gate = syncs
    append(partition, batch_of(b"v"))
    done.clear()
    gate.clear()
    waiting = asyncio.create_task(flusher.sync(partition))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    gate.set()
    await waiting
    assert len(done) == 1
    assert partition.synced_to == partition.end == 1
    await flusher.sync(partition)
    assert len(done) == 1, "nothing new, nothing to sync"


async def test_all_that_wait_share_a_sync(flusher, store, syncs, batch_of):
    """A hundred appends, each waited for: two syncs, the one under way and one for all the rest."""
    partition = store.partition("t", 0)
    done, gate = syncs
    append(partition, batch_of(b"first"))
    done.clear()
    gate.clear()
    waiting = [asyncio.create_task(flusher.sync(partition))]
    await asyncio.sleep(0.02)
    for _ in range(99):
        append(partition, batch_of(b"more"))
        waiting.append(asyncio.create_task(flusher.sync(partition)))
    await asyncio.sleep(0.02)
    gate.set()
    await asyncio.gather(*waiting)
    assert len(done) == 2
    assert partition.synced_to == 100


async def test_everything_is_synced_within_the_interval(flusher, store, batch_of):
    partition = store.partition("t", 0)
    append(partition, batch_of(b"v"))
    running = asyncio.create_task(flusher.run(store))
    await asyncio.sleep(FLUSH_AFTER_S + 0.4)
    running.cancel()
    assert partition.synced_to == 1


async def test_after_a_failed_sync_nothing_more_is_taken(flusher, store, monkeypatch, batch_of, caplog):
    """The kernel may have dropped what it could not write, so only a restart can tell what is there."""
    partition = store.partition("t", 0)
    append(partition, batch_of(b"v"))

    def broken(_fd):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        await flusher.sync(partition)
    with pytest.raises(Refused, match=r"Input/output error.*restart the broker"):
        append(partition, batch_of(b"v"))
    assert "restart the broker" in caplog.text
    assert partition.end == 1


async def test_the_first_record_that_a_trainer_waits_for_waits_for_no_disk(flusher, store, syncs, batch_of):
    """It waits for one partition alone, with `min_bytes` 1; whoever gathers, or reads several, changes nothing."""
    core, done = Core(store, flusher.sync), syncs[0]
    for partitions, min_bytes in ((1, 2), (2, 1)):
        wait_for(core, range(partitions), min_bytes).cancel()
    assert done == []

    poll = wait_for(core, [0], 1)
    poll.deliver = lambda: None
    before = len(done)
    append(store.partition("t", 0), batch_of(b"v"))

    assert (before, len(done)) == (1, 1), "its offsets are reserved while nobody waits for a record"
    append(store.partition("t", 1), batch_of(b"v"))
    assert len(done) == 2, "no one waited for the first record of the other"


def wait_for(core, partitions, min_bytes):
    """A fetch that waits."""
    places = [SimpleNamespace(partition=each, fetch_offset=0, partition_max_bytes=1 << 20) for each in partitions]
    request = SimpleNamespace(
        session_id=0,
        min_bytes=min_bytes,
        max_bytes=1 << 20,
        max_wait=timedelta(seconds=30),
        topics=[SimpleNamespace(topic="t", partitions=places)],
    )
    poll = fetch(core, Caller("c", "127.0.0.1", ("127.0.0.1", 1), 4), request)
    assert isinstance(poll, LongPoll)
    return poll
