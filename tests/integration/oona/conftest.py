"""A real broker with its topics, a key, and small builders of events; every test has a run of its own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import struct
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.topics import DEADLETTER, PARTITIONS
from esper.leyline import ids
from esper.leyline.envelope import new_event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing
from esper.urza.artifact import guard_digest, keep
from streams.broker.launch import start_broker
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.reader import record_of, tail
from streams.records import Refused, verified
from streams.topics import ensure_topics
from streams.writer import LogWriter

KEY = "5e" * 32


@pytest.fixture(scope="session")
def ring():
    return KeyRing((bytes.fromhex(KEY),))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("oona")


@pytest.fixture(scope="session")
def log(data_dir):
    """The broker that all tests share; it is never stopped or killed."""
    broker = start_broker(data_dir)
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


class OwnLog:
    """A broker that can be frozen, killed and started again on its port."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.process = start_broker(data_dir)

    @property
    def address(self) -> str:
        return self.process.address

    @contextlib.contextmanager
    def frozen(self):
        """The broker neither answers nor hangs up."""
        os.kill(self.process.pid, 19)  # SIGSTOP
        try:
            yield
        finally:
            os.kill(self.process.pid, 18)  # SIGCONT

    def crash(self) -> None:
        self.process.kill()

    def restart(self) -> None:
        self.process = start_broker(self.data_dir, port=self.process.port)

    def end(self) -> None:
        if self.process.process.poll() is None:
            self.process.kill()


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


@dataclass
class Events:
    """Makes events of one run."""

    run_id: str
    sequence: int = 0

    def make(self, body, *, event_id=None, **fields):
        return new_event(
            body,
            event_id=event_id or ids.uuid7(time.time_ns(), os.urandom(10)),
            run_id=self.run_id,
            producer="trainer",
            recorded_at_ns=time.time_ns(),
            **fields,
        )

    def fact(self, body=None):
        self.sequence += 1
        return self.make(body or event_pb2.StateDigested(occasion="epoch"), sequence=self.sequence, incarnation=1)

    def telemetry(self, loss=1.0):
        return self.make(event_pb2.StepSampled(loss=loss))

    def emergency(self):
        return self.make(leyline_pb2.EmergencySignal(reason="test"), priority=leyline_pb2.MESSAGE_PRIORITY_CRITICAL)

    def epoch(self, *, policy="heuristic", epoch=10, **fields):
        """A state packet that the heuristic answers with a germination."""
        option = event_pb2.BlueprintOption(blueprint_id="BP009", parameters=170, flops_per_sample=2_000, residual=True)
        site = event_pb2.SiteDescription(site="body", seed_id="s1", shape_kind="vector", shape=[8], options=[option])
        state = leyline_pb2.SystemStatePacket(
            version=1,
            current_epoch=epoch,
            validation_loss=1.2,
            validation_accuracy=0.6,
            training_loss=1.1,
            training_run_id=self.run_id,
        )
        return self.fact(
            event_pb2.EpochCompleted(
                **{
                    "state": state,
                    "seeds": [event_pb2.SeedObservation(seed_id="s1", stage=leyline_pb2.SEED_LIFECYCLE_STAGE_DORMANT)],
                    "evidence": [event_pb2.SiteEvidence(seed_id="s1", gradient_norm=0.9)],
                    "sites": [site],
                    "probe_loss_history": [1.4, 1.3, 1.2],
                    "probe_loss_stderr": 0.05,
                    "epochs_total": 40,
                    "params": 696,
                    "params_host": 696,
                    "params_budget": 1_000,
                    "policy": policy,
                    "policy_seed": 11,
                    "epochs_since_structural_change": epoch,
                    **fields,
                }
            )
        )


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


class Process:
    """One of Esper's processes, ready when this is made."""

    def __init__(self, name: str, data_dir: Path, address: str, *, env=None) -> None:
        self.name, self.data_dir, self.address = name, data_dir, address
        self.env = {**os.environ, "ESPER_KEY": KEY, "OMP_NUM_THREADS": "1", **(env or {})}
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", f"streams.{self.name}"]
        self.stderr_path = self.data_dir / f"{self.name}.stderr"
        with self.stderr_path.open("ab") as stderr:
            self.popen = subprocess.Popen(
                [*command, "--data-dir", str(self.data_dir), "--brokers", self.address],
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=self.env,
                text=True,
            )
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, self.stderr_path.read_text()
        self.ready = json.loads(line)

    def kill(self) -> None:
        self.popen.kill()
        self._reap()

    def terminate(self) -> tuple[int, float]:
        """The exit code and the seconds it took."""
        started = time.monotonic()
        self.popen.terminate()
        return self._reap(), time.monotonic() - started

    def _reap(self) -> int:
        code = self.popen.wait(10.0)
        self.popen.stdout.close()
        return code


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


class Scraper:
    """Reads what a process answers on its health port."""

    def __call__(self, process):
        """Its `/health`, and its samples by name (the last of each)."""
        families = text_string_to_metric_families(self.text(process))
        samples = {sample.name: sample.value for family in families for sample in family.samples}
        return self._get(process, "health"), samples

    def text(self, process) -> str:
        return self._get(process, "metrics").text

    def _get(self, process, page):
        return httpx.get(f"http://127.0.0.1:{process.ready['health_port']}/{page}")


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
                    found += [verified(record_of(message).signed, ring) for message in batch.get(partition, [])]
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


WEIGHTS = struct.pack("<Q", 2) + b"{}"  # a safetensors file without tensors


class Forge:
    """Says on the log what the forge says of one finished job, with the artifact in the object store."""

    def __init__(self, writer, events, objects):
        self.writer, self.events, self.objects = writer, events, objects

    def store(self, blueprint, *, register=True, version=1):
        guard = []
        manifest = {
            "format": 1,
            "blueprint_id": blueprint,
            "shape_kind": "vector",
            "shape": [4],
            "parameters": {"depth": 2.0},
            "form": "eager",
            "guard": guard,
            "guard_digest": guard_digest(guard),
            "weights_ref": keep(self.objects, WEIGHTS),
            "weights_bytes": len(WEIGHTS),
            "cache_ref": "",
            "cache_bytes": 0,
            "attempt": version,
        }
        content = json.dumps(manifest).encode()
        ref = self.objects.put(content)
        job = f"job-{blueprint}"
        descriptor = leyline_pb2.BlueprintDescriptor(
            blueprint_id=blueprint, name="test", tier=leyline_pb2.BLUEPRINT_TIER_SAFE
        )
        bodies = [
            event_pb2.CompileRequested(
                job_id=job, blueprint_id=blueprint, shape_kind="vector", shape=[4], parameters={"depth": 2.0}
            ),
            event_pb2.CompileFinished(job_id=job, blueprint_id=blueprint, artifact_ref=ref, prewarm_p50_ms=0.5),
            event_pb2.ArtifactStored(
                blueprint_id=blueprint,
                artifact_ref=ref,
                artifact_version=version,
                checksum=hashlib.sha256(content).hexdigest(),
                guard_digest=manifest["guard_digest"],
                bytes=len(content),
                form="eager",
            ),
            leyline_pb2.KernelCatalogUpdate(blueprint_id=blueprint, artifact_ref=ref),
        ]
        if register:
            bodies.insert(0, event_pb2.BlueprintRegistered(descriptor=descriptor, shape_kinds=["vector"]))
        for body in bodies:
            self.writer.publish(self.events.make(body))
        self.writer.flush()
        return ref


@pytest.fixture
def forge(writer, events, objects):
    return Forge(writer, events, objects)


@pytest.fixture
def forge_of():
    return Forge
