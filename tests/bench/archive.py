"""The archive's rows of the table: draining, freshness, bursts, the SQL fold, the twenty questions.

    python -m tests.bench.archive [--events 1000000] [--drain 300000] [--seconds 20] [--keep FOLDER]

Fixture: generated histories (`projections.generated`, 27 event types of 150 to 350 bytes), an embedded broker and
one archiver process with its compactor, producer and reader on the same machine: on a busy one read the row in
processor time. The archives that are asked are in `archive_history`; the peers are a benchmark of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from aiokafka import AIOKafkaProducer

from esper.leyline.signing import KeyRing
from projections import open_history
from projections.generated import history, records
from projections.manifest import covered
from projections.wholeness import coverage
from streams.broker.launch import start_broker
from streams.records import headers_of
from streams.topics import ensure_topics
from tests.bench.archive_history import queried
from tests.bench.burst import Encoded, Signed, encoded, offer
from tests.bench.table import HEADER, Row, failed, line

KEY = "3c" * 32
RING = KeyRing((bytes.fromhex(KEY),))
RATE = 10_000
BURST = 100_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000, help="of the history that is queried")
    parser.add_argument("--drain", type=int, default=300_000, help="events that are drained")
    parser.add_argument("--seconds", type=float, default=20.0, help="of steady traffic")
    parser.add_argument("--keep", type=Path, help="make the queried archive here, or use the one that is here")
    options = parser.parse_args(arguments)
    rows = [
        *live(options.drain, options.seconds),
        *queried(options.events, options.keep),
    ]
    sys.stdout.write("\n".join([HEADER, *map(line, rows)]) + "\n")
    return int(failed(rows))


def rows(*, full: bool = False) -> list[Row]:
    """A million events and a short while of traffic; in full ten million as well, and longer traffic."""
    measured = [*live(300_000, 20.0 if full else 5.0), *queried(1_000_000, None)]
    if full:
        measured += queried(10_000_000, None)
    return measured


def live(drain: int, seconds: float) -> list[Row]:
    """What needs a broker: draining, steady traffic, a burst."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        broker = start_broker(data_dir, anonymous=True)
        try:
            asyncio.run(ensure_topics(broker.address))
            signed = [(record, headers_of(RING.sign(record.value or b""))) for record in records(history(drain))]
            produced_s = asyncio.run(produce(broker.address, signed))
            with archiver(data_dir, broker.address) as process:
                rows = draining(data_dir, process, len(signed))
                rows.append(Row("producer alone", len(signed) / produced_s, "events/s", "aiokafka, no archiver"))
                more = signed[: int(RATE * seconds)]
                rows += freshness(broker.address, data_dir, more, len(signed))
                requests = encoded(signed)
                rows += bursting(broker.address, data_dir, requests, len(signed), len(signed) + len(more))
        finally:
            broker.stop()
    return rows


def draining(data_dir: Path, process: subprocess.Popen[str], count: int) -> list[Row]:
    """From ready to all archived, on the wall and on the archiver's own processor time."""
    measured = psutil.Process(process.pid)
    before = sum(measured.cpu_times()[:2])
    drained_s = until(data_dir, count)
    used_s = sum(measured.cpu_times()[:2]) - before
    fixture = f"{count:,} events, signatures verified"
    return [
        Row("log → archive, draining", count / drained_s, "events/s", fixture, 1e5, at_least=True),
        Row("log → archive, per second of its processor time", count / used_s, "events/s", "the same"),
    ]


def freshness(brokers: str, data_dir: Path, signed: Sequence[Signed], already: int) -> list[Row]:
    """How long an acknowledged event waits until a reader's query has it, under steady traffic."""
    waited_s = asyncio.run(steady(brokers, data_dir, signed, already=already))
    fixture = f"{RATE:,} events/s, {len(signed) / RATE:.0f} s, compaction on"
    return [
        Row("ack → readable, p99", statistics.quantiles(waited_s, n=100)[98], "s", fixture, 1.0),
        Row("ack → readable, p50", statistics.median(waited_s), "s", "the same"),
    ]


def bursting(brokers: str, data_dir: Path, requests: Sequence[Encoded], count: int, already: int) -> list[Row]:
    """Everything at once, while the archiver works: what is lost, what the archive itself counts, when all is there."""
    began = time.perf_counter()
    offered_s = asyncio.run(offer(brokers, requests, BURST))
    until(data_dir, already + count)
    caught_up_s = time.perf_counter() - began
    with open_history(data_dir / "archive") as opened:
        held = opened.execute("SELECT count(*) FROM log.every").fetchone()[0]
        counted = sum(each.lost for each in coverage(opened.manifest))
    fixture = f"{count:,} events, encoded beforehand, at {BURST:,}/s; from the first to the last acknowledgement"
    return [
        Row("burst: offered", count / offered_s, "events/s", fixture, 0.98 * BURST, at_least=True),
        Row("burst: lost", already + count - held, "events", "acknowledged and not in the archive", 0),
        Row("burst: lost, by the archive's own count", counted, "events", "esper_archive_lost_total", 0),
        Row("burst: until all is readable", caught_up_s, "s", f"{count:,} events"),
    ]


@contextmanager
def archiver(data_dir: Path, brokers: str) -> Iterator[subprocess.Popen[str]]:
    """An archiver process, ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.archiver", "--data-dir", str(data_dir), "--brokers", brokers],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ESPER_KEY": KEY},
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["ready"]
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def until(data_dir: Path, count: int) -> float:
    """Seconds until the archive has passed so many records."""
    began = time.perf_counter()
    while sum(covered(data_dir / "archive").values()) < count:
        time.sleep(0.02)
    return time.perf_counter() - began


async def produce(brokers: str, signed: Sequence[Signed]) -> float:
    """Put everything onto the log as fast as it goes; the seconds that took."""
    producer = AIOKafkaProducer(bootstrap_servers=brokers, linger_ms=5, max_batch_size=131_072)
    await producer.start()
    began = time.perf_counter()
    try:
        for start in range(0, len(signed), 10_000):
            await send(producer, signed[start : start + 10_000])
    finally:
        await producer.stop()
    return time.perf_counter() - began


async def send(producer: AIOKafkaProducer, signed: Sequence[Signed]) -> None:
    """Publish and wait for every acknowledgement."""
    acknowledged = [
        await producer.send(record.topic, record.value, key=record.key, partition=record.partition, headers=headers)
        for record, headers in signed
    ]
    await asyncio.gather(*acknowledged)


async def steady(brokers: str, data_dir: Path, signed: Sequence[Signed], *, already: int) -> list[float]:
    """Publish at `RATE`, every 50 ms a part, while a reader in a thread sees when each part is readable."""
    producer = AIOKafkaProducer(bootstrap_servers=brokers, linger_ms=2, max_batch_size=65_536)
    await producer.start()
    acked: list[tuple[int, float]] = []
    waited: list[float] = []
    part = RATE // 20
    reading = asyncio.create_task(asyncio.to_thread(watch, data_dir, acked, waited, len(signed) // part))
    began = time.monotonic()
    try:
        for turn in range(len(signed) // part):
            await send(producer, signed[turn * part : (turn + 1) * part])
            acked.append((already + (turn + 1) * part, time.monotonic()))
            await asyncio.sleep(max(0.0, began + (turn + 1) * 0.05 - time.monotonic()))
        await reading
    finally:
        await producer.stop()
    return waited


def watch(data_dir: Path, acked: list[tuple[int, float]], waited: list[float], parts: int) -> None:
    """A reader: counts every event by SQL every 50 ms and notes for each part when the count had reached it."""
    with open_history(data_dir / "archive") as opened:
        while len(waited) < parts:
            count = opened.execute("SELECT count(*) FROM log.every").fetchone()[0]
            now = time.monotonic()
            while len(waited) < len(acked) and acked[len(waited)][0] <= count:
                waited.append(now - acked[len(waited)][1])
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
