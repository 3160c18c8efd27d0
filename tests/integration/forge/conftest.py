"""A broker, a forge that a test may kill, and the blueprints' topic read whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from contracts.topics import BLUEPRINTS, PARTITIONS
from esper.leyline.envelope import body_name, body_of
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing
from esper.tezzeret import child, events, results
from esper.tezzeret.jobs import Place, evolve, request
from esper.tezzeret.results import order_of
from streams.broker.launch import start_broker
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.reader import record_of
from streams.records import verified
from streams.topics import ensure_topics

KEY = "5e" * 32
NO_COMPILER = {"CXX": "/nowhere/c++"}
"""The environment of a forge that compiles nothing: what is asked for is served as it is."""
WAITS = """#!/bin/sh
while kill -0 $PPID 2>/dev/null && [ ! -e "$0.ends" ]; do sleep 0.02; done
exit 1
"""


@pytest.fixture
def house(tmp_path):
    """A data folder with a broker; every process of it is gone when the test ends."""
    built = House(tmp_path)
    yield built
    built.end()


@pytest.fixture
def compiler(tmp_path):
    """A C++ compiler that is at work until there is the file `c++.ends` beside it, and then has failed."""
    path = tmp_path / "c++"
    path.write_text(WAITS)
    path.chmod(0o700)
    return path


class House:
    """A broker and the forge's process on one data folder, and what a test does with them."""

    def __init__(self, data_dir):
        self.data_dir = data_dir
        self.ring = KeyRing((bytes.fromhex(KEY),))
        self.objects = ObjectStore(data_dir / "objects")
        self.work = data_dir / "run" / "forge"
        self.broker = start_broker(data_dir, anonymous=True)
        self.forge = None
        asyncio.run(ensure_topics(self.broker.address))

    def end(self):
        if self.forge is not None and self.forge.poll() is None:
            self.kill()
        self.broker.kill()

    # ------------------------------------------------------------------------------------------------------ the forge

    def start(self, *, env=None):
        """Start the forge; the seconds until it was ready."""
        begun = time.monotonic()
        self.forge = self.spawn(env=env)
        line = self.forge.stdout.readline()
        assert line, (self.data_dir / "forge.stderr").read_text()
        self.health_port = json.loads(line)["health_port"]
        return time.monotonic() - begun

    def spawn(self, *, env=None):
        with (self.data_dir / "forge.stderr").open("ab") as stderr:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "streams.forge"),
                    *("--data-dir", str(self.data_dir), "--brokers", self.broker.address),
                ],
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "ESPER_KEY": KEY, "OMP_NUM_THREADS": "1", **(env or {})},
                text=True,
            )

    def kill(self):
        self.forge.kill()
        self.forge.wait(10)
        self.forge.stdout.close()

    def terminate(self):
        """The exit code and the seconds it took."""
        begun = time.monotonic()
        self.forge.terminate()
        code = self.forge.wait(10)
        self.forge.stdout.close()
        return code, time.monotonic() - begun

    @contextlib.contextmanager
    def frozen_log(self):
        os.kill(self.broker.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.broker.pid, signal.SIGCONT)

    # -------------------------------------------------------------------------------------------------------- the log

    def publish(self, *told):
        async def send():
            publisher = Publisher(self.broker.address, self.ring, Metrics())
            await publisher.start()
            await publisher.publish(told)
            await publisher.stop()

        asyncio.run(send())

    def read(self, topic=BLUEPRINTS):
        """All events of the topic."""

        async def collect():
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.broker.address,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=20,
            )
            await consumer.start()
            try:
                places = [TopicPartition(topic.name, number) for number in range(PARTITIONS)]
                consumer.assign(places)
                ends = await consumer.end_offsets(places)
                found = []
                while [place for place in places if await consumer.position(place) < ends[place]]:
                    for messages in (await consumer.getmany(timeout_ms=50)).values():
                        found += [verified(record_of(message), self.ring) for message in messages]
                return found
            finally:
                await consumer.stop()

        return asyncio.run(collect())

    def names(self, blueprint_id=None):
        """The names of the events on the topic, of one blueprint in the log's order."""
        found = self.read()
        return [body_name(e) for e in found if blueprint_id in (None, body_of(e).blueprint_id)]

    def until(self, name, count=1, timeout_s=60.0):
        """Wait until so many different events of a name are on the log; all events then."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = self.read()
            if len({event.event_id for event in found if body_name(event) == name}) >= count:
                return found
        raise AssertionError(f"{name} did not come: {[body_name(event) for event in self.read()]}")

    def stored(self):
        """The objects that are there whole."""
        return {f"sha256:{path.parent.name}{path.name}" for path in self.objects.root.glob("*/[0-9a-f]*")}

    # ------------------------------------------------------------------------------------------------------------ jobs

    def ask(self, blueprint_id="BP005", parameters=None, pipeline="emergency"):
        """A request, not yet published, and the job that it makes."""
        body = request(blueprint_id, "vector", [8], parameters or {}, pipeline)
        asked = events.requested(body, time.time_ns(), producer="test")
        return asked, evolve(None, asked, Place(0, 0, 0))

    def prepared(self, job):
        """The folder of the first attempt as its child leaves it, made in this process."""
        folder = self.work / f"{job.job_id}-1"
        folder.mkdir(parents=True)
        child._compile(order_of(job, "emergency", 2**31, approved=False), folder, time.perf_counter, time.process_time)
        return folder

    def stored_once(self, job, version=1):
        """The artifact of a job that was stored and told of exactly once."""
        found = self.read()
        bodies = {
            name: [body_of(event) for event in found if body_name(event) == name]
            for name in ("compile_finished", "artifact_stored", "kernel_catalog_update")
        }
        ids = [event.event_id for event in found if body_name(event) in bodies]
        assert len(set(ids)) == 3, [body_name(event) for event in found]
        refs = {body.artifact_ref for told in bodies.values() for body in told}
        assert len(refs) == 1
        stored = bodies["artifact_stored"][0]
        kept = results.read(self.objects, refs.pop())
        assert (stored.artifact_version, stored.checksum) == (version, kept.checksum)
        assert kept.report.job_id == job.job_id
        return kept


def wait_for(happened, timeout_s=60.0):
    """Wait until a condition holds, looking every millisecond."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


@pytest.fixture
def when():
    return wait_for
