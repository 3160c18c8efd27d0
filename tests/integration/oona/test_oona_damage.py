"""A batch that is damaged on the log: every reader steps over it, names it, and has what stands around it."""

from __future__ import annotations

import asyncio
import logging
import shutil

import pytest

from contracts.topics import PARTITIONS, RUNS
from esper.cli.up import examine
from projections import manifest
from projections.archive_writer import Archive
from projections.manifest import Gap
from projections.registry import PROJECTIONS
from projections.store import Store
from streams.archiver import ArchiveLoop, connect
from streams.feed.log_reader import LogReader
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.projection_feed import ProjectionFeed
from streams.reader import past, tail
from streams.records import partition_of
from streams.topics import ensure_topics
from tests.integration.oona.oona_events import Events
from tests.integration.oona.oona_processes import OwnLog
from tests.integration.oona.test_oona_app import agent_of_runs, until

RUN = "damaged-run"
PARTITION = partition_of(RUN.encode(), PARTITIONS)
SOUND = [0, 1, 5, 6]
"""Offsets of what is whole. 2 to 4 are one batch, and one of its bits is another now."""


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, ring):
    """A log with three batches of a run's facts, of which the middle one is damaged."""
    log = OwnLog(tmp_path_factory.mktemp("damaged"))
    asyncio.run(ensure_topics(log.address))
    events = Events(RUN)

    async def publish():
        publisher = Publisher(log.address, ring, Metrics())
        for count in (2, 3, 2):
            await publisher.publish([events.fact() for _ in range(count)])
        await publisher.stop()

    asyncio.run(publish())
    log.process.stop()
    (segment,) = (log.data_dir / "log" / "topics" / RUNS.name / str(PARTITION)).glob("*.log")
    data = bytearray(segment.read_bytes())
    assert len(data) > 1_000
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    log.restart()
    yield log
    log.end()


@pytest.mark.asyncio
async def test_a_tail_and_a_look_at_the_past_have_the_rest(damaged, ring, caplog):
    caplog.set_level(logging.ERROR)
    assert [event.sequence async for event in tail(damaged.address, ring, RUN, follow=False)] == [1, 2, 6, 7]
    assert (
        f"{RUNS.name}/{PARTITION} offsets 2 to 4 cannot be read and is left out: its checksum is wrong" in caplog.text
    )
    assert [event.sequence async for event in past(damaged.address, ring, RUNS)] == [1, 2, 6, 7]


@pytest.mark.asyncio
async def test_an_agent_has_the_rest(damaged, tmp_path):
    (tmp_path / "run").mkdir()
    async with agent_of_runs("stepping", damaged, tmp_path) as (_, handled):
        await until(lambda: len(handled) == len(SOUND))
        assert handled == [(PARTITION, offset) for offset in SOUND]


@pytest.mark.asyncio
async def test_a_projection_has_the_rest(damaged, tmp_path, ring, metrics):
    store = Store(PROJECTIONS["urza"], tmp_path / "urza.duckdb", ring)
    feed = ProjectionFeed([store], damaged.address, metrics)
    keeping = asyncio.create_task(feed.keep())
    await until(lambda: store.next_offsets.get((RUNS.name, PARTITION)) == 7)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


def test_a_feed_has_the_rest(damaged):
    place = (RUNS.name, PARTITION)
    with LogReader(damaged.address) as reader:
        reader.connect([RUNS.name])
        reader.seek(place, 0)
        found, until_ = [], 0
        while until_ < 7:
            for batches, until_ in reader.take([place], 5.0).values():  # noqa: B007
                found += [record.offset for batch in batches for record in batch.records()[0]]
    assert found == SOUND


def test_the_archive_has_the_rest_and_says_what_is_missing(damaged, ring, metrics, monkeypatch):
    folder = damaged.data_dir / "archive"
    shutil.rmtree(folder, ignore_errors=True)

    async def archived():
        stop = asyncio.Event()
        with Archive(folder, ring) as archive:
            consumer = await connect(damaged.address, archive)
            loop = asyncio.create_task(ArchiveLoop(archive, consumer, metrics, stop, damaged.data_dir / "log").run())
            await until(lambda: archive.manifest.next_offsets.get((RUNS.name, PARTITION)) == 7)
            stop.set()
            await loop
            await consumer.stop()

    asyncio.run(archived())

    kept = manifest.load(folder)
    (unreadable,) = kept.unreadable
    assert kept.gaps == (Gap(RUNS.name, PARTITION, 2, 5),)
    assert (unreadable.first, unreadable.next) == (2, 5)
    assert unreadable.file == f"log/topics/{RUNS.name}/{PARTITION}/{0:020d}.log"
    assert "esper_archive_unreadable_total 3.0" in metrics.render().decode()
    monkeypatch.delenv("ESPER_BROKERS", raising=False)
    (said,) = [each for each in examine(damaged.data_dir) if each.check == "archive"]
    assert said.verdict == "bad"
    assert "3 records were damaged on the log" in said.found
