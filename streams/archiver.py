"""The archiver's process: every topic partition of the log into the archive. `python -m streams.archiver --help`.

Plain aiokafka, because Faust costs 75 to 90 µs an event. The position is the manifest's, committed with the rows; the
group `esper-archiver` only tells the log how far its retention may go.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from contracts.topics import ARCHIVER_GROUP, PARTITIONS, TOPICS
from esper.errors import EsperError
from projections.archive import Archive
from streams.health import HealthServer
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.process import LOG_FORMAT, announce
from streams.settings import Settings
from streams.topics import ensure_topics

FLUSH_S: Final = 0.2
"""How long events are gathered into one file of their type."""

MAX_RECORDS: Final = 20_000
"""One flush at most: larger chunks decode slower."""

FETCH_MAX_WAIT_MS: Final = 50
RETRY_S: Final = 0.2

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Archive until SIGTERM or SIGINT; the exit code. A foreseen error is one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m streams.archiver", description="Writes the log to the archive.")
    parser.add_argument("--data-dir", type=Path, help="the data folder (default: ESPER_DATA or ./esper-data)")
    parser.add_argument("--brokers", help="HOST:PORT of the log (default: ESPER_BROKERS)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=LOG_FORMAT)
    try:
        settings = Settings.load(data=options.data_dir)
        brokers = options.brokers or settings.brokers
        if brokers is None:
            parser.error("no log to talk to: give --brokers HOST:PORT or set ESPER_BROKERS")
        with Archive(settings.data / "archive", load_key_ring(settings, brokers)) as archive:
            asyncio.run(_serve(settings, brokers, archive))
    except EsperError as error:
        sys.stderr.write(f"archiver: {error}\n")
        return 1
    return 0


async def _serve(settings: Settings, brokers: str, archive: Archive) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await ensure_topics(brokers)
    settings.run_folder.mkdir(parents=True, exist_ok=True)
    metrics = Metrics()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=brokers,
        group_id=ARCHIVER_GROUP,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
        max_partition_fetch_bytes=8 * 1024 * 1024,
    )
    await consumer.start()
    try:
        _assign(consumer, archive)
        with HealthServer("archiver", metrics, checks={}) as health:
            announce("archiver", settings, health.port)
            while not stop.is_set():
                await _flush(consumer, archive)
            await _flush(consumer, archive)
    finally:
        await consumer.stop()


def _assign(consumer: AIOKafkaConsumer, archive: Archive) -> None:
    """Every partition of every topic, from where the archive's manifest ends."""
    places = [TopicPartition(topic.name, partition) for topic in TOPICS for partition in range(PARTITIONS)]
    consumer.assign(places)
    for place in places:
        consumer.seek(place, archive.manifest.next_offsets.get((place.topic, place.partition), 0))


async def _flush(consumer: AIOKafkaConsumer, archive: Archive) -> None:
    """Gather for FLUSH_S, archive in one step, and tell the log how far its retention may go."""
    ends = time.monotonic() + FLUSH_S
    records = []
    while (left_s := ends - time.monotonic()) > 0 and len(records) < MAX_RECORDS:
        batches = await consumer.getmany(timeout_ms=max(1, int(left_s * 1000)), max_records=MAX_RECORDS - len(records))
        records += [record for batch in batches.values() for record in batch]
    if not records:
        return
    await asyncio.to_thread(archive.append, records)
    touched = {(record.topic, record.partition) for record in records}
    offsets = {TopicPartition(*place): archive.manifest.next_offsets[place] for place in touched}
    try:
        await consumer.commit(offsets)
    except KafkaError as error:
        logger.warning("retention waits: the log did not take the archive's position: %s", error)
        await asyncio.sleep(RETRY_S)


if __name__ == "__main__":
    sys.exit(main())
