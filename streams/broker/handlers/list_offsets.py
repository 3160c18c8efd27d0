"""ListOffsets: the first offset, the next one, or the first at a time."""

from __future__ import annotations

import logging
from typing import Any, Final

from kio.schema.errors import ErrorCode

from streams.broker.batch import PREFIX_BYTES, header
from streams.broker.codec import Fields
from streams.broker.core import Caller, Core
from streams.broker.errors import Refused
from streams.broker.partition import Partition

_LOG: Final = logging.getLogger(__name__)
LATEST: Final = -1
EARLIEST: Final = -2


def list_offsets(core: Core, _caller: Caller, request: Any) -> Fields:
    """Per partition the offset that the request's timestamp means."""
    return {
        "topics": [
            {"name": topic.name, "partitions": [_partition(core, topic.name, asked) for asked in topic.partitions]}
            for topic in request.topics
        ]
    }


def _partition(core: Core, topic: str, asked: Any) -> Fields:
    answer = {"partition_index": asked.partition_index, "timestamp": -1, "offset": -1, "error_code": ErrorCode.none}
    try:
        partition = core.store.partition(topic, asked.partition_index)
    except Refused as refused:
        return answer | {"error_code": refused.code}
    if asked.timestamp == LATEST:
        return answer | {"offset": partition.end}
    if asked.timestamp == EARLIEST:
        return answer | {"offset": partition.start}
    timestamp, offset = first_at(partition, asked.timestamp)
    return answer | {"timestamp": timestamp, "offset": offset}


def first_at(partition: Partition, timestamp_ms: int) -> tuple[int, int]:
    """Timestamp and offset of the first record written at `timestamp_ms` or later; (-1, -1) when there is none."""
    for block in partition.blocks_since(timestamp_ms):
        position = 0
        while position < len(block):
            batch = header(block, position)
            end = position + PREFIX_BYTES + batch.length
            if batch.max_timestamp >= timestamp_ms and batch.next_offset > partition.start:
                found = _first_in(block[position:end], timestamp_ms, partition.start)
                if found is not None:
                    return found
            position = end
    return -1, -1


def _first_in(batch: bytes, timestamp_ms: int, start: int) -> tuple[int, int] | None:
    from aiokafka.record.default_records import DefaultRecordBatch  # noqa: PLC0415 - 0.1 s that no start should pay

    try:
        for record in DefaultRecordBatch(bytearray(batch)):
            if record.timestamp >= timestamp_ms and record.offset >= start:
                return record.timestamp, record.offset
    except Exception as error:  # noqa: BLE001 - a codec that is not installed, or records that are none
        _LOG.warning("offset by time: a batch cannot be opened (%s): its first offset is answered", error)
        first = header(batch)
        return first.max_timestamp, max(first.base_offset, start)
    return None
