"""Where the archiver begins: the log that the archive is of, and no other, from where the archive ends.

A log is known by its records: the last that was archived of each partition has to lie where it was. An id counts only
where nothing can be compared, because clients see none of topics, and one cluster may be made anew under the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from contracts.topics import ARCHIVER_GROUP, TOPICS
from esper.errors import InvalidInput
from projections.archive_writer import Archive
from projections.manifest import Place
from projections.records import Batch
from streams.access import prefix_of
from streams.consumer import LogConsumer
from streams.not_let_in import no_log

COMPARE_S: Final = 5.0
"""How long a start waits for the records that it compares with the archive's."""
POLL_MS: Final = 50
WAY_OUT: Final = "give it a data folder of its own with --data-dir, or move the archive away; both stay readable"
logger = logging.getLogger(__name__)


async def connect(brokers: str, archive: Archive, cluster_id: str = "") -> LogConsumer:
    """A consumer of every partition of every topic, from where the archive ends.

    What was found in the archive's folder unlisted and has left the log is archived first. Raises LogUnavailable where
    the log does not answer, and InvalidInput where it is not the log that was archived: then what it holds would pass
    as archived already. That is a log that ends before the archive does; one that has another record where the
    archive's last one was; and one by another id, where no record can be compared.
    """
    consumer = LogConsumer(
        bootstrap_servers=brokers,
        group_id=prefix_of(brokers) + ARCHIVER_GROUP,
        batches=True,
        auto_offset_reset="earliest",  # what the log deleted before it was archived is noted as a gap
        max_partition_fetch_bytes=2 * 2**20,
        fetch_max_bytes=8 * 2**20,
    )
    try:
        await consumer.start()
        places = await consumer.places(*TOPICS)
        ends = {(place.topic, place.partition): end for place, end in (await consumer.end_offsets(places)).items()}
        begins = {(at.topic, at.partition): first for at, first in (await consumer.beginning_offsets(places)).items()}
        _refuse_shorter(brokers, archive, ends)
        await _refuse_another(brokers, archive, begins, cluster_id)
    except (KafkaError, OSError) as error:
        await consumer.stop()
        raise no_log(brokers, error) from None
    except BaseException:
        await consumer.stop()
        raise
    taken = archive.take_over(begins)
    if taken:
        logger.warning("%d records that had left the log were archived again from files that were set aside", taken)
    archive.follows(cluster_id, 1 + max(place.partition for place in places))
    gone = archive.note_gone(begins)
    if gone:
        logger.error("%d offsets had left the log before they were archived: see `esper archive status`", gone)
    consumer.assign(places)
    for place in places:
        at = (place.topic, place.partition)
        consumer.seek(place, archive.manifest.next_offsets.get(at, begins[at]))
    return consumer


def _refuse_shorter(brokers: str, archive: Archive, ends: Mapping[Place, int]) -> None:
    for (topic, partition), wanted in archive.ends().items():
        end = ends.get((topic, partition), wanted)
        if end < wanted:
            raise InvalidInput(
                f"{archive.folder} holds {topic}/{partition} up to offset {wanted} and the log at {brokers} ends at "
                f"{end}: it is another log, an older copy of it, or the topic was deleted and made again; {WAY_OUT}"
            )


async def _refuse_another(brokers: str, archive: Archive, begins: Mapping[Place, int], cluster_id: str) -> None:
    """Compare the last archived record of every partition with what the log has there; they say more than an id."""
    known = archive.last_records()
    there = {at: last for at, last in known.items() if begins.get(at, last[0] + 1) <= last[0]}
    found = await _records_at(brokers, {TopicPartition(*at): offset for at, (offset, _) in there.items()})
    for (topic, partition), (offset, raw) in there.items():
        if (topic, partition) in found and found[topic, partition] != raw:
            raise InvalidInput(
                f"the log at {brokers} has another record at {topic}/{partition} offset {offset} than "
                f"{archive.folder}: it is another log, or the topic was deleted and made again; {WAY_OUT}"
            )
    before = archive.manifest.cluster_id
    if before and cluster_id and before != cluster_id and known and not found:
        raise InvalidInput(
            f"the log at {brokers} is {cluster_id} and {archive.folder} is of {before}, and the log has no record "
            f"left that is archived and could be compared: it is another log; {WAY_OUT}"
        )


async def _records_at(brokers: str, wanted: Mapping[TopicPartition, int]) -> dict[Place, bytes | None]:
    """The bytes of the records at some offsets; what does not come in time, or is not there, is left out.

    By a consumer that is in no group: aiokafka ends one that is assigned anew while it looks for its coordinator.
    """
    found: dict[Place, bytes | None] = {}
    if not wanted:
        return found
    consumer = LogConsumer(bootstrap_servers=brokers, batches=True, auto_offset_reset="earliest")
    try:
        await consumer.start()
        consumer.assign(list(wanted))
        for place, offset in wanted.items():
            consumer.seek(place, offset)
        waiting = set(wanted)
        deadline = time.monotonic() + COMPARE_S
        while waiting and time.monotonic() < deadline:
            for place, fetched in (await consumer.getmany(*waiting, timeout_ms=POLL_MS)).items():
                batch = fetched[0]
                if isinstance(batch, Batch) and batch.offsets[0] == wanted[place]:
                    found[place.topic, place.partition] = batch.values[0]
                waiting.discard(place)
    finally:
        await consumer.stop()
    return found
