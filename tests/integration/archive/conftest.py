"""A broker with its topics, an archiver process that can be killed, and a producer that signs."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from esper.leyline.signing import KeyRing
from projections import open_history
from projections.manifest import covered
from projections.records import StoredRecord
from streams.broker.launch import BrokerProcess, start_broker
from streams.records import headers_of
from streams.topics import ensure_topics

KEY = "3c" * 32
RING = KeyRing((bytes.fromhex(KEY),))


class Desk:
    """A data folder with a broker, and what a test does to its archiver."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.archive = data_dir / "archive"
        self.broker: BrokerProcess = start_broker(data_dir, anonymous=True)
        self.archivers: list[subprocess.Popen[str]] = []
        asyncio.run(ensure_topics(self.broker.address))

    def start(self, *, wait: bool = True) -> subprocess.Popen[str]:
        """An archiver of the folder, ready."""
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "streams.archiver",
                "--data-dir",
                str(self.data_dir),
                "--brokers",
                self.broker.address,
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "ESPER_KEY": KEY},
        )
        self.archivers.append(process)
        if wait:
            assert json.loads(process.stdout.readline())["ready"] is True
        return process

    def publish(self, records: Iterable[StoredRecord], *, sign: bool = True, timestamp_ms: int | None = None) -> int:
        """Put records onto the log at once, in their order and as of a time (now, if none is given); how many."""
        return asyncio.run(_publish(self.broker.address, list(records), sign=sign, timestamp_ms=timestamp_ms))

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> float:
        """Seconds until the condition held."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < timeout_s, "it did not come about in time"
            time.sleep(0.02)
        return time.monotonic() - started

    def archived(self) -> int:
        """How many records the archive has passed."""
        return sum(covered(self.archive).values())

    def places(self) -> list[tuple]:
        """Every archived record's place and event id, in order."""
        with open_history(self.archive) as history:
            assert not history.damage
            query = "SELECT log_topic, log_partition, log_offset, event_id FROM log.every ORDER BY ALL"
            return history.connection.execute(query).fetchall()

    def end(self) -> None:
        for process in self.archivers:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()
        self.broker.stop()


async def _publish(address: str, records: list[StoredRecord], *, sign: bool, timestamp_ms: int | None) -> int:
    producer = AIOKafkaProducer(bootstrap_servers=address, enable_idempotence=True, linger_ms=5, max_batch_size=65_536)
    await producer.start()
    try:
        for start in range(0, len(records), 5_000):
            sent = [
                await producer.send(
                    record.topic,
                    record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=headers_of(RING.sign(record.value)) if sign else list(record.headers),
                    timestamp_ms=timestamp_ms,
                )
                for record in records[start : start + 5_000]
            ]
            await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return len(records)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path)
    yield found
    found.end()


def command(data_dir: Path, brokers: str) -> list[str]:
    return [sys.executable, "-m", "streams.archiver", "--data-dir", str(data_dir), "--brokers", brokers]


@pytest.fixture
def attempt(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], subprocess.CompletedProcess[str]]:
    """Run an archiver that is expected to end by itself."""
    monkeypatch.setenv("ESPER_KEY", KEY)

    def run(data_dir: Path, brokers: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(data_dir, brokers), capture_output=True, text=True, timeout=60, check=False)

    return run


def send(process: subprocess.Popen[str], number: signal.Signals) -> float:
    """Signal a process; the seconds until it was gone."""
    started = time.monotonic()
    process.send_signal(number)
    process.wait(timeout=10)
    return time.monotonic() - started


@pytest.fixture
def end_with() -> Callable[[subprocess.Popen[str], signal.Signals], float]:
    return send


@pytest.fixture
def store(tmp_path, monkeypatch) -> Iterator:
    """An S3 server, and the environment that docs/archive.md names for it."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "esper")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "esper")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def bucket(store) -> str:
    """A bucket of the test's own: the server's stores live as long as the process."""
    host, port = store.get_host_and_port()
    name = f"esper-{secrets.token_hex(4)}"
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/{name}", method="PUT")).close()
    return name
