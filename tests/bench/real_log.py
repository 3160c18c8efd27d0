"""The embedded log beside a real Kafka, in turns: publishing, draining into the archive, and the epoch hook of a run.

    python -m tests.bench.real_log [--runs 3] [--drain 100000]

Kafka is one broker of `../shared/kafka` on the same machine, entered in the clear, with its first compiler alone; where
it is missing, its rows are figures that could not be had. Limits belong to the embedded log and stand in its own
benchmarks: these rows are there to be read beside each other.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from contracts.leyline.v1.event_pb2 import StateDigested
from esper.leyline.envelope import new_event
from projections.generated import history, records
from streams.broker.launch import start_broker
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.records import headers_of
from streams.topics import ensure_topics
from tests.bench.archive import KEY, RING, archiver, draining, produce
from tests.bench.decision_latency import measured, percentiles, pooled
from tests.bench.table import HEADER, Row, failed, line
from tests.kafka import MISSING, Kafka

PUBLISHED = 500
EMBEDDED, KAFKA = "embedded log", "Kafka"


def rows(*, full: bool = False) -> list[Row]:
    """The same of both logs."""
    return [*compared(10 if full else 3, 300_000 if full else 100_000)]


def compared(runs: int, drain: int) -> Iterator[Row]:
    """Publishing and draining on each log, then runs in turns."""
    hooks: dict[str, list[dict[str, list[float]]]] = {EMBEDDED: [], KAFKA: []}
    for name in (EMBEDDED, KAFKA):
        with log_called(name) as (address, data_dir):
            yield from published(name, address)
            yield from drained(name, address, data_dir, drain)
    with log_called(KAFKA) as (address, _):
        for seed in range(runs):
            hooks[EMBEDDED].append(measured(seed, ["--no-control"]))
            with mock.patch.dict(os.environ, {"ESPER_BROKERS": address, "ESPER_KEY": KEY}):
                hooks[KAFKA].append(measured(seed, ["--no-control"]))
    for name, found in hooks.items():
        for part, values in pooled(found).items():
            cuts = percentiles(values)
            for cut in ("p50", "p99"):
                yield Row(f"{name}: epoch hook, {part}, {cut}", cuts[cut], "ms", f"{runs} runs in turns")


@contextmanager
def log_called(name: str) -> Iterator[tuple[str, Path]]:
    """The address of a log with our topics, and a data folder for what reads it."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        data_dir.mkdir()
        if name == EMBEDDED:
            broker = start_broker(data_dir, anonymous=True)
            address, stop = broker.address, broker.stop
        else:
            if MISSING:
                raise RuntimeError(MISSING)
            kafka = Kafka(Path(folder) / "kafka", "unused", nodes=1)
            kafka.start()
            address, stop = kafka.inside, kafka.kill
        try:
            asyncio.run(ensure_topics(address))
            yield address, data_dir
        finally:
            stop()


def published(name: str, address: str) -> Iterator[Row]:
    """How long one fact takes from its publisher to its acknowledgement, one after the other."""
    taken = asyncio.run(_published(address))
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    for cut, at in (("p50", 49), ("p99", 98)):
        yield Row(f"{name}: publish → acknowledged, {cut}", cuts[at], "ms", f"{PUBLISHED} facts, one at a time")


async def _published(address: str) -> list[float]:
    publisher = Publisher(address, RING, Metrics())
    body = StateDigested(occasion="epoch", root=bytes(32))
    taken = []
    for number in range(PUBLISHED + 20):
        event = new_event(
            body, event_id=number.to_bytes(16, "big"), run_id="bench", producer="trainer", recorded_at_ns=1
        )
        began = time.perf_counter()
        await publisher.publish([event])
        taken.append((time.perf_counter() - began) * 1e3)
    await publisher.stop()
    return taken[20:]  # the first find out where the partitions are


def drained(name: str, address: str, data_dir: Path, count: int) -> Iterator[Row]:
    """From the log into the archive; the limits are those of the embedded log's own benchmark."""
    signed = [(record, headers_of(RING.sign(record.value or b""))) for record in records(history(count))]
    asyncio.run(produce(address, signed))
    with archiver(data_dir, address) as process:
        for row in draining(data_dir, process, len(signed)):
            yield Row(f"{name}: {row.what}", row.measured, row.unit, row.fixture)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of `esper run` on each log (default: %(default)s)")
    parser.add_argument("--drain", type=int, default=100_000, help="events that are drained (default: %(default)s)")
    options = parser.parse_args()
    found = []
    sys.stdout.write(HEADER + "\n")
    for row in compared(options.runs, options.drain):
        found.append(row)
        sys.stdout.write(line(row) + "\n")
        sys.stdout.flush()
    return int(failed(found))


if __name__ == "__main__":
    sys.exit(main())
