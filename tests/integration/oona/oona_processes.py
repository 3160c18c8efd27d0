"""A broker that may be stopped and killed, Esper's processes, and what they answer on their health ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from prometheus_client.parser import text_string_to_metric_families

from contracts.topics import RUNS, TOPICS
from streams.broker.launch import start_broker

KEY = "5e" * 32


class OwnLog:
    """A broker that can be frozen, killed and started again on its port."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.process = start_broker(data_dir, anonymous=True)

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
        self.process = start_broker(self.data_dir, port=self.process.port, anonymous=True)

    def end(self) -> None:
        if self.process.process.poll() is None:
            self.process.kill()


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


async def delete_before(brokers, ends):
    """Delete what lies before these offsets, by topic and partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(*place): RecordsToDelete(end) for place, end in ends.items()})
    finally:
        await admin.close()


async def committed(log, group, partition, wanted, timeout_s=10.0):
    """What the log has of the group on a partition of runs, once it is `wanted` or the time is over."""
    consumer = AIOKafkaConsumer(bootstrap_servers=log.address, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        place = TopicPartition(RUNS.name, partition)
        found = await consumer.committed(place)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while found != wanted:
                    await asyncio.sleep(0.1)
                    found = await consumer.committed(place)
        return found
    finally:
        await consumer.stop()


async def add_partitions(address, count):
    """Have so many partitions of every topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_partitions({topic.name: NewPartitions(count) for topic in TOPICS})
    finally:
        await admin.close()
