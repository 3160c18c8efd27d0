"""The archiver's process: log to Parquet, by plain aiokafka in bulk. `python -m streams.archiver --help`.

Plain aiokafka, because Faust costs 75 to 90 µs an event. The position is the manifest's, committed with the rows; the
group `esper-archiver` only tells the log how far its retention may go.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import TextIO

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from contracts.topics import ARCHIVER_GROUP, PARTITIONS, TOPICS
from esper.errors import InvalidInput, LogUnavailable
from projections.archive import Archive
from streams.archive_loop import ArchiveLoop
from streams.bulk import read_in_batches
from streams.consumer import LogConsumer
from streams.entry import Place, announce, by_hand, clients_may_warn, log_to_stderr, parser_of, place_of
from streams.health import HealthServer
from streams.metrics import Metrics
from streams.topics import ensure_topics


def run(arguments: Sequence[str], messages: TextIO) -> None:
    """Archive until SIGTERM or SIGINT. Raises EsperError."""
    options = parser_of("streams.archiver", "Keeps the log as Parquet.").parse_args(arguments)
    log_to_stderr()
    clients_may_warn()
    try:
        asyncio.run(_serve(place_of(options), messages))
    except KafkaError as error:
        raise LogUnavailable(f"the log failed: {error!r}") from error
    except OSError as error:
        raise LogUnavailable(f"the archive cannot be written: {error}; make room or mend the disk") from error


async def _serve(place: Place, messages: TextIO) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics()
    with Archive(place.settings.data / "archive", place.ring) as archive:
        await ensure_topics(place.brokers)
        read_in_batches()
        consumer = await connect(place.brokers, archive)
        log = place.settings.data / "log" if place.settings.brokers is None else None
        pump = ArchiveLoop(archive, consumer, metrics, stop, log)
        try:
            with HealthServer("archiver", metrics, checks={"archive": pump.trouble}) as health:
                announce("archiver", place.settings.run_folder, health.port, messages)
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
        batches=True,
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


if __name__ == "__main__":
    sys.exit(by_hand("archiver", run))
