"""A real broker with its topics, a key, and small builders of events; every test has a run of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import uuid

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from contracts.topics import DEADLETTER, PARTITIONS
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing
from streams.broker.launch import start_broker
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.reader import record_of, tail
from streams.records import Refused, verified
from streams.topics import ensure_topics
from streams.writer import LogWriter
from tests.integration.oona.oona_events import Events
from tests.integration.oona.oona_forge import Forge
from tests.integration.oona.oona_processes import KEY, OwnLog, Process, Scraper


@pytest.fixture(scope="session")
def ring():
    return KeyRing((bytes.fromhex(KEY),))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("oona")


@pytest.fixture(scope="session")
def log(data_dir):
    """The broker that all tests share; it is never stopped or killed."""
    broker = start_broker(data_dir, anonymous=True)
    asyncio.run(ensure_topics(broker.address))
    yield broker
    broker.stop()


@pytest.fixture
def own_log(tmp_path):
    """A broker that a test may stop and kill, and start again on the same port."""
    broker = OwnLog(tmp_path)
    asyncio.run(ensure_topics(broker.address))
    yield broker
    broker.end()


@pytest.fixture
def run_id():
    return f"run-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def writer(log, ring, metrics):
    with LogWriter(log.address, ring, producer="trainer", metrics=metrics) as writer:
        yield writer


@pytest.fixture
def events(run_id):
    return Events(run_id)


@pytest.fixture
def read(log, ring, run_id):
    """Everything of the test's run that is on the log now."""

    def read_all(*, address=log.address, ring=ring, run_id=run_id, **options):
        async def collect():
            return [event async for event in tail(address, ring, run_id, follow=False, **options)]

        return asyncio.run(collect())

    return read_all


@pytest.fixture
def read_until(log, ring, run_id):
    """The events of the test's run until `enough(events)`; fails when they do not come."""

    def read_some(enough, *, address=log.address, ring=ring, run_id=run_id, timeout_s=20.0, **options):
        async def collect():
            found = []
            async with asyncio.timeout(timeout_s), contextlib.aclosing(tail(address, ring, run_id, **options)) as live:
                async for event in live:
                    found.append(event)
                    if enough(found):
                        break
            return found

        return asyncio.run(collect())

    return read_some


@pytest.fixture
def publishing(log, ring, metrics):
    """A context in which a publisher is started."""

    @contextlib.asynccontextmanager
    async def started(*, address=log.address, ring=ring):
        publisher = Publisher(address, ring, metrics)
        await publisher.start()
        try:
            yield publisher
        finally:
            await publisher.stop()

    return started


@pytest.fixture(scope="module")
def start_process():
    """Starts processes that live as long as the tests of a file."""
    yield from _starter()


@pytest.fixture
def processes():
    """Starts processes that a test may kill, and leaves none behind."""
    yield from _starter()


def _starter():
    started = []

    def start(*arguments, **options):
        started.append(Process(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.kill()


@pytest.fixture
def run_module(tmp_path):
    """Runs a module of `streams` to its end: its exit code and what it said on stderr."""

    def run(module, *arguments, env=None):
        environment = env or {**os.environ, "ESPER_KEY": KEY}
        environment["XDG_CONFIG_HOME"] = str(tmp_path)
        ended = subprocess.run(
            [sys.executable, "-m", f"streams.{module}", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return ended.returncode, ended.stderr

    return run


@pytest.fixture
def scrape():
    return Scraper()


@pytest.fixture
def whole_topic(log, ring):
    """All events of a topic whose signatures hold, whatever their keys."""

    async def read_all(topic, *, address=log.address):
        consumer = AIOKafkaConsumer(bootstrap_servers=address, enable_auto_commit=False, auto_offset_reset="earliest")
        await consumer.start()
        try:
            partitions = [TopicPartition(topic.name, number) for number in range(PARTITIONS)]
            consumer.assign(partitions)
            found = []
            for partition, end in (await consumer.end_offsets(partitions)).items():
                while await consumer.position(partition) < end:
                    batch = await consumer.getmany(partition, timeout_ms=200)
                    found += [verified(record_of(message), ring) for message in batch.get(partition, [])]
            return [event for event in found if not isinstance(event, Refused)]
        finally:
            await consumer.stop()

    return read_all


@pytest.fixture
def dead_letters(whole_topic):
    """The bodies of all dead letters."""
    return lambda: [event.dead_lettered for event in asyncio.run(whole_topic(DEADLETTER))]


@pytest.fixture
def objects(data_dir):
    return ObjectStore(data_dir / "objects")


@pytest.fixture
def blueprint():
    """An id that no other test uses: the log is shared."""
    return f"BP{uuid.uuid4().hex[:6]}"


@pytest.fixture
def forge(writer, events, objects):
    return Forge(writer, events, objects)


@pytest.fixture
def forge_of():
    return Forge
