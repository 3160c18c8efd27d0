"""The archiver's process: log to Parquet, by plain aiokafka in bulk. `python -m streams.archiver --help`.

Plain aiokafka, because Faust costs 75 to 90 µs an event. The position is the manifest's, committed with the rows; the
group `esper-archiver` only tells the log how far its retention may go.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from contracts.topics import ARCHIVER_GROUP, PARTITIONS, TOPICS
from esper.errors import EsperError, InvalidInput, LogUnavailable
from esper.leyline.signing import KeyRing
from projections.archive import Archive
from streams.bulk import read_in_batches
from streams.consumer import LogConsumer
from streams.health import HealthServer
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.pump import Pump
from streams.settings import Settings
from streams.topics import ensure_topics


def main(arguments: Sequence[str] | None = None) -> int:
    """Archive until SIGTERM or SIGINT; the exit code. A foreseen error is one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m streams.archiver", description="Keeps the log as Parquet.")
    parser.add_argument("--data-dir", type=Path, help="the data folder (default: ESPER_DATA or ./esper-data)")
    parser.add_argument("--brokers", help="HOST:PORT of the log (default: ESPER_BROKERS)")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        settings = Settings.load(data=options.data_dir)
        brokers = options.brokers or settings.brokers
        if brokers is None:
            parser.error("no log to talk to: give --brokers HOST:PORT or set ESPER_BROKERS")
        asyncio.run(_serve(settings, brokers, load_key_ring(settings, brokers)))
    except EsperError as error:
        sys.stderr.write(f"archiver: {error}\n")
        return 1
    except KafkaError as error:
        sys.stderr.write(f"archiver: the log failed: {error!r}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"archiver: the archive cannot be written: {error}; make room or mend the disk\n")
        return 1
    return 0


async def _serve(settings: Settings, brokers: str, ring: KeyRing) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings.run_folder.mkdir(parents=True, exist_ok=True)
    metrics = Metrics()
    with Archive(settings.data / "archive", ring) as archive:
        await ensure_topics(brokers)
        read_in_batches()
        consumer = await connect(brokers, archive)
        pump = Pump(archive, consumer, metrics, stop)
        try:
            with HealthServer("archiver", metrics, checks={"archive": pump.trouble}) as health:
                _announce(settings.run_folder / "archiver.json", health.port)
                await pump.run()
        finally:
            await consumer.stop()


async def connect(brokers: str, archive: Archive) -> LogConsumer:
    """A consumer of every partition of every topic, from where the archive ends.

    Raises LogUnavailable where the log does not answer, and InvalidInput where it ends before the archive does: then
    it is another log, and what it holds would pass as archived already.
    """
    consumer = LogConsumer(
        bootstrap_servers=brokers,
        group_id=ARCHIVER_GROUP,
        auto_offset_reset="earliest",  # what the log deleted before it was archived is noted as a gap
        max_partition_fetch_bytes=2 * 2**20,
        fetch_max_bytes=8 * 2**20,
    )
    try:
        await consumer.start()
        places = [TopicPartition(topic.name, partition) for topic in TOPICS for partition in range(PARTITIONS)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        begins = await consumer.beginning_offsets(places)
    except (KafkaError, OSError) as error:
        await consumer.stop()
        raise LogUnavailable(f"no log answers at {brokers}: {error!r}; start one or correct ESPER_BROKERS") from None
    for place in places:
        wanted = archive.manifest.next_offsets.get((place.topic, place.partition), begins[place])
        if ends[place] < wanted:
            await consumer.stop()
            raise InvalidInput(
                f"{archive.folder} holds {place.topic}/{place.partition} up to offset {wanted} and the log at "
                f"{brokers} ends at {ends[place]}: it is another log, so give it another data folder"
            )
        consumer.seek(place, wanted)
    return consumer


def _announce(path: Path, health_port: int) -> None:
    """Say that the process is ready: a line on stdout for who started it, a list of targets for Prometheus."""
    temporary = path.with_suffix(f".{os.getpid()}")
    targets = [{"targets": [f"127.0.0.1:{health_port}"], "labels": {"process": "archiver"}}]
    temporary.write_text(json.dumps(targets) + "\n")
    temporary.replace(path)
    sys.stdout.write(json.dumps({"ready": True, "health_port": health_port}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
