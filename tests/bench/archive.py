"""The archive's rows of the table: draining, freshness, bursts, the SQL fold, the twenty questions.

    python -m tests.bench.archive [--events 1000000] [--drain 300000] [--seconds 20] [--keep FOLDER]

Fixture: generated histories (`projections.generated`, 27 event types, 150 bytes at the mean), an embedded broker and
one archiver process with its compactor, producer and reader on the same machine: on a busy one read the row in
processor time. Queries run warm, best of five, over an archive that is fully merged; `--events 10000000` takes 2 GB of
disk and half an hour to make.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
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
from typing import TypeAlias

import psutil
from aiokafka import AIOKafkaProducer

from esper.leyline.signing import KeyRing
from projections import compaction, manifest, open_history, questions
from projections.archive import Archive
from projections.generated import history, records
from projections.history import History
from projections.manifest import covered
from projections.records import StoredRecord
from streams.broker.launch import start_broker
from streams.records import headers_of
from streams.topics import ensure_topics
from tests.bench.table import HEADER, Row, failed, line

KEY = "3c" * 32
Signed: TypeAlias = tuple[StoredRecord, list[tuple[str, bytes]]]
RING = KeyRing((bytes.fromhex(KEY),))
RATE = 10_000
FOLDS = {
    "stage of every seed (reads all facts and moves)": "SELECT * FROM fold_stages",
    "stage of every seed at every epoch": "SELECT count(*), sum(stage) FROM fold_stage_at_epoch",
    "problems of every run (reads all facts)": "SELECT * FROM fold_problems",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000, help="of the history that is queried")
    parser.add_argument("--drain", type=int, default=300_000, help="events that are drained")
    parser.add_argument("--seconds", type=float, default=20.0, help="of steady traffic")
    parser.add_argument("--keep", type=Path, help="make the queried archive here, or use the one that is here")
    options = parser.parse_args(arguments)
    rows = [*live(options.drain, options.seconds), *queried(options.events, options.keep)]
    sys.stdout.write("\n".join([HEADER, *map(line, rows)]) + "\n")
    return int(failed(rows))


def rows(*, full: bool = False) -> list[Row]:
    """With the command line's defaults, or shorter traffic; ten million events are the command line's alone."""
    return [*live(300_000, 20.0 if full else 5.0), *queried(1_000_000, None)]


def live(drain: int, seconds: float) -> list[Row]:
    """What needs a broker: draining, steady traffic, a burst."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        broker = start_broker(data_dir)
        try:
            asyncio.run(ensure_topics(broker.address))
            signed = [(record, headers_of(RING.sign(record.value or b""))) for record in records(history(drain))]
            produced_s = asyncio.run(produce(broker.address, signed))
            with archiver(data_dir, broker.address) as process:
                rows = draining(data_dir, process, len(signed))
                rows.append(Row("producer alone", len(signed) / produced_s, "events/s", "aiokafka, no archiver"))
                more = signed[: int(RATE * seconds)]
                rows += freshness(broker.address, data_dir, more, len(signed))
                rows += bursting(broker.address, data_dir, signed, len(signed) + len(more))
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


def bursting(brokers: str, data_dir: Path, signed: Sequence[Signed], already: int) -> list[Row]:
    """Everything at once, while the archiver works: what is lost, and when all is readable."""
    began = time.perf_counter()
    offered_s = asyncio.run(produce(brokers, signed))
    until(data_dir, already + len(signed))
    caught_up_s = time.perf_counter() - began
    with open_history(data_dir / "archive") as opened:
        held = opened.execute("SELECT count(*) FROM log.every").fetchone()[0]
    lost = already + len(signed) - held
    return [
        Row("burst: lost", lost, "events", f"{len(signed) / offered_s:,.0f} events/s offered", 0),
        Row("burst: until all is readable", caught_up_s, "s", f"{len(signed):,} events"),
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


def queried(events: int, keep: Path | None) -> list[Row]:
    """What needs an archive: its size, the folds, the questions."""
    with tempfile.TemporaryDirectory() as folder:
        archive = keep or Path(folder)
        if not manifest.load(archive).files:
            make(archive, events)
        with open_history(archive) as opened:
            return [*folds(opened), *asked(opened)]


def make(archive: Path, events: int) -> None:
    """An archive of generated runs, fully merged."""
    with Archive(archive) as owned:
        made = records(history(events))
        while part := list(itertools.islice(made, 20_000)):
            owned.append(part)
            if len(owned.manifest.files) > 400:
                compaction.merge_all(owned, compaction.MERGE_AT, time.time)
        compaction.merge_all(owned, 2, time.time)
        owned.delete_retired(time.time() + 1e6)


def folds(opened: History) -> list[Row]:
    """The rows that a fold really reads, per second."""
    facts = opened.execute("SELECT count(*) FROM log.facts").fetchone()[0]
    moves = opened.execute("SELECT count(*) FROM log.seed_transitioned").fetchone()[0]
    epochs = opened.execute("SELECT count(*) FROM log.epoch_completed").fetchone()[0]
    read = dict(zip(FOLDS, (facts + 2 * moves, facts + 2 * moves + epochs, facts + moves), strict=True))
    rows = []
    for name, query in FOLDS.items():
        seconds = best(opened, query)
        limit = 3e6 if name.startswith("stage of every seed (") else None
        fixture = f"{read[name]:,} rows read in {seconds * 1e3:.0f} ms"
        rows.append(Row(f"SQL fold: {name}", read[name] / seconds, "rows/s", fixture, limit, at_least=True))
    return rows


def asked(opened: History) -> list[Row]:
    """Each question by itself; the limit is 50 ms over a million events and 300 ms over ten."""
    events = opened.execute("SELECT count(*) FROM log.every").fetchone()[0]
    run, event = (
        opened.execute(
            "SELECT run_id, event_id FROM log.adaptation_command ORDER BY run_id LIMIT 1 OFFSET 20_000"
        ).fetchone()
        or opened.execute("SELECT run_id, event_id FROM log.adaptation_command LIMIT 1").fetchone()
    )
    limit_ms = 50.0 if events < 3_000_000 else 300.0
    rows = []
    for name in questions.names():
        query = questions.text(name)
        given = {key: value for key, value in {"run": run, "step": 2_500, "event": event}.items() if f"${key}" in query}
        rows.append(Row(f"question {name}", best(opened, query, given) * 1e3, "ms", f"{events:,} events", limit_ms))
    return rows


def best(opened: History, query: str, parameters: dict | None = None) -> float:
    """Seconds, best of five, rows fetched."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        opened.connection.execute(query, parameters).fetchall()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    sys.exit(main())
