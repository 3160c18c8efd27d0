"""The feed's rows of the table: field reports from the archive and from the live log into tensors.

    python -m tests.bench.feed [--events 300000] [--seconds 10]

Fixture: signed field reports as Tamiyo writes them (about 250 bytes, 64 runs), nine fields each, batches of 8,192; an
embedded broker on the same machine. From the archive: merged files, warm, one reader in one process. Beside each figure
stands what one would write without a feed: a protobuf object per event, Python lists, `torch.tensor`. On a busy machine
read the figures in processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import torch
from aiokafka import AIOKafkaConsumer, TopicPartition
from torch.utils.data import DataLoader

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.topics import PARTITIONS, REPORTS
from esper.leyline.envelope import Event
from projections import compaction, manifest
from projections.archive_writer import Archive
from projections.manifest import FILES
from projections.records import StoredRecord
from streams.broker.launch import start_broker
from streams.feed import FIELD_REPORTS, EventFeed
from streams.reader import record_of
from streams.records import Refused, headers_of, partition_of, verified
from streams.topics import ensure_topics
from tests.bench.archive import KEY, RING, produce
from tests.bench.table import HEADER, Row, failed, line

BATCH = 8_192
NAIVE = 50_000
"""Events of which the slow way's rate is taken."""
METRICS = ("loss_delta_total", "loss_delta_min", "loss_delta_max", "avg_hook_latency_ms")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300_000, help="field reports in the archive and on the log")
    parser.add_argument("--seconds", type=float, default=10.0, help="of reading again and again, for the memory")
    options = parser.parse_args(arguments)
    rows = measured(options.events, options.seconds)
    sys.stdout.write("\n".join([HEADER, *map(line, rows)]) + "\n")
    return int(failed(rows))


def rows(*, full: bool = False) -> list[Row]:
    """With the command line's defaults, or a million reports and ten minutes of memory."""
    return measured(1_000_000, 600.0) if full else measured(300_000, 10.0)


def measured(events: int, seconds: float) -> list[Row]:
    """All rows."""
    os.environ["ESPER_KEY"] = KEY
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        broker = start_broker(data_dir, anonymous=True)
        try:
            asyncio.run(ensure_topics(broker.address))
            made = list(reports(events))
            asyncio.run(produce(broker.address, [(each, headers_of(RING.sign(each.value or b""))) for each in made]))
            log = logged(data_dir, broker.address, events)
            archive(data_dir / "archive", made)
            del made
            return [*archived(data_dir, events), *log, *memory(data_dir, seconds)]
        finally:
            broker.stop()


def reports(count: int) -> Iterator[StoredRecord]:
    """Field reports at their places on the log."""
    chance = random.Random(0)
    runs = [f"01{number:010d}" for number in range(64)]
    ends = [0] * PARTITIONS
    for number in range(count):
        run = runs[number % len(runs)]
        body = leyline_pb2.FieldReport(
            version=1,
            report_id=chance.randbytes(16).hex(),
            training_run_id=run,
            seed_id=f"s{1 + number % 3}",
            blueprint_id="BP009",
            outcome=1 + number % 3,
            metrics={name: chance.random() for name in METRICS},
            observation_window_epochs=5,
            notes="fossilized",
        )
        event = event_pb2.Event(
            event_id=chance.randbytes(16),
            run_id=run,
            producer="tamiyo",
            recorded_at_ns=1_760_000_000_000_000_000 + number,
            schema_version=1,
            field_report=body,
        )
        key = run.encode()
        partition = partition_of(key, PARTITIONS)
        place, ends[partition] = ends[partition], ends[partition] + 1
        yield StoredRecord(
            REPORTS.name, partition, place, 1_760_000_000_000 + number, key, event.SerializeToString(), ()
        )


def archive(folder: Path, made: Sequence[StoredRecord]) -> None:
    """The same in an archive that is merged."""
    with Archive(folder) as owned:
        for start in range(0, len(made), 20_000):
            owned.append(made[start : start + 20_000])
        compaction.merge_all(owned, 2, time.time)


def archived(data_dir: Path, events: int) -> list[Row]:
    """From the archive."""
    wall, cpu = best(lambda: drained(EventFeed(data_dir, FIELD_REPORTS, batch_size=BATCH), events))
    naive_wall, naive_cpu = best(lambda: archived_by_hand(data_dir / "archive"))
    fixture = f"{events:,} field reports, 9 fields"
    return [
        Row("feed: archive → tensors", wall, "rows/s", fixture, 1e6, at_least=True),
        Row("feed: archive → tensors, per second of its processor time", cpu, "rows/s", "the same"),
        Row("beside: objects, lists, torch.tensor", naive_wall, "rows/s", f"{naive_cpu:,.0f} in processor time"),
    ]


def logged(data_dir: Path, brokers: str, events: int) -> list[Row]:
    """From the log, with nothing archived yet."""
    wall, cpu = best(lambda: drained(EventFeed(data_dir, FIELD_REPORTS, end="now", batch_size=BATCH), events))
    two = max(by_workers(data_dir, events) for _ in range(3))
    naive_wall, naive_cpu = best(lambda: asyncio.run(logged_by_hand(brokers)))
    fixture = f"{events:,} field reports, 9 fields, signatures verified: the better of the next two"
    return [
        Row("feed: live log → tensors", max(wall, two), "rows/s", fixture, 3e5, at_least=True),
        Row("feed: one reader", wall, "rows/s", f"{cpu:,.0f} in processor time"),
        Row("feed: a loader of two workers", two, "rows/s", "from its first batch on"),
        Row("beside: objects, lists, torch.tensor", naive_wall, "rows/s", f"{naive_cpu:,.0f} in processor time"),
    ]


def by_workers(data_dir: Path, events: int) -> float:
    """Events per second of a DataLoader with two workers, which share the partitions."""
    loader = DataLoader(
        EventFeed(data_dir, FIELD_REPORTS, end="now", batch_size=BATCH),
        batch_size=None,
        num_workers=2,
        prefetch_factor=4,
    )
    batches = iter(loader)
    first = len(next(batches))
    began = time.perf_counter()
    rows = sum(len(batch) for batch in batches)
    assert first + rows == events
    return rows / (time.perf_counter() - began)


def memory(data_dir: Path, seconds: float) -> list[Row]:
    """How memory grows while a reader reads archive and log over and over, from its second quarter to its last."""
    process = psutil.Process()
    began, held = time.monotonic(), []
    while (spent := time.monotonic() - began) < seconds or len(held) < 16:
        drained(EventFeed(data_dir, FIELD_REPORTS, end="archive" if len(held) % 2 else "now", batch_size=BATCH), None)
        held.append(process.memory_info().rss / 2**20)
    quarter = len(held) // 4
    warm, last = statistics.median(held[quarter : 2 * quarter]), statistics.median(held[-quarter:])
    fixture = f"{len(held)} passes, {spent:.0f} s; {warm:,.0f} MiB in the second quarter, {last:,.0f} in the last"
    return [Row("feed: memory that reading on takes", last - warm, "MiB more", fixture, 32.0)]


def drained(feed: EventFeed, events: int | None) -> int:
    """Read to the end; how many events that were, which must be `events` where that is known."""
    rows = sum(len(batch) for batch in feed)
    assert events in {None, rows}, f"{rows} of {events}"
    return rows


def best(action: Callable[[], int]) -> tuple[float, float]:
    """The best of three: events per second, and per second of this process's processor time."""
    walls, cpus = [], []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        count = action()
        walls.append(count / (time.perf_counter() - wall))
        cpus.append(count / (time.process_time() - cpu))
    return max(walls), max(cpus)


def archived_by_hand(folder: Path) -> int:
    """What one would write: the stored bytes, an object per event."""
    entry = manifest.load(folder).of("field_report")[0]
    raw = pq.ParquetFile(folder / FILES / entry.name).read(columns=["log_raw"])["log_raw"].slice(0, NAIVE).to_pylist()
    return tensors([event_pb2.Event.FromString(each) for each in raw])


async def logged_by_hand(brokers: str) -> int:
    """What one would write: aiokafka's consumer, `verified`, an object per event."""
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(REPORTS.name, partition) for partition in range(PARTITIONS)])
        count = 0
        while count < NAIVE:
            for messages in (await consumer.getmany(timeout_ms=200, max_records=BATCH)).values():
                events = [verified(record_of(message), RING) for message in messages]
                count += tensors([event for event in events if not isinstance(event, Refused)])
    finally:
        await consumer.stop()
    return count


def tensors(events: Sequence[Event]) -> int:
    """The same nine fields, value by value."""
    reports = [event.field_report for event in events]
    columns: list[list[Any]] = [[report.metrics[name] for report in reports] for name in METRICS]
    columns += [[report.outcome for report in reports], [report.observation_window_epochs for report in reports]]
    columns += [[int(report.seed_id[1:]) for report in reports], [int(report.blueprint_id[2:]) for report in reports]]
    made = [torch.tensor(column) for column in columns]
    made.append(torch.tensor([list(event.event_id) for event in events], dtype=torch.uint8))
    return len(made[-1])


if __name__ == "__main__":
    sys.exit(main())
