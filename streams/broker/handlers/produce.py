"""Produce and InitProducerId."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable
from typing import Any

from kio.schema.errors import ErrorCode

from streams.broker.batch import checked
from streams.broker.core import Caller, Core
from streams.broker.partition import Partition
from streams.broker.protocol import Fields, Refused
from streams.broker.store import now_ms


def produce(core: Core, _caller: Caller, request: Any) -> Fields | Awaitable[Fields | None] | None:
    """Stores each batch, or says for each why not; waits for the disk where the topic asks for it."""
    unsynced: list[Partition] = []
    answer = {"responses": [_topic(core, request, topic, unsynced) for topic in request.topic_data]}
    if request.acks == 0:
        return None
    return _after_sync(core, unsynced, answer) if unsynced else answer


async def _after_sync(core: Core, partitions: list[Partition], answer: Fields) -> Fields:
    for partition in partitions:
        await core.sync(partition)
    failed = {partition.name for partition in partitions if partition.failure}
    for topic in answer["responses"]:
        for each in topic["partition_responses"]:
            if f"{topic['name']}-{each['index']}" in failed:
                each.update(_refusal(Refused(ErrorCode.kafka_storage_error, "the disk did not take it")))
    return answer


def _topic(core: Core, request: Any, topic: Any, unsynced: list[Partition]) -> Fields:
    partitions = [_partition(core, request, topic.name, data, unsynced) for data in topic.partition_data]
    return {"name": topic.name, "partition_responses": partitions}


def _partition(core: Core, request: Any, topic: str, data: Any, unsynced: list[Partition]) -> Fields:
    answer = {"index": data.index, "error_code": ErrorCode.none, "record_errors": ()}
    try:
        _check(request)
        partition = core.store.partition(topic, data.index)
        base_offset = _append(core, topic, partition, data.records)
    except Refused as refused:
        core.complain(refused)
        return answer | _refusal(refused)
    if core.store.topics[topic].config.sync_always:
        unsynced.append(partition)
    return answer | {"base_offset": base_offset, "log_start_offset": partition.start}


def _check(request: Any) -> None:
    if request.transactional_id is not None:
        raise Refused(ErrorCode.invalid_request, "this broker has no transactions")
    if request.acks not in {-1, 0, 1}:
        raise Refused(ErrorCode.invalid_required_acks, f"acks={request.acks}")


def _refusal(refused: Refused) -> dict[str, Any]:
    return {"error_code": refused.code, "base_offset": -1, "error_message": refused.why}


def _append(core: Core, topic: str, partition: Partition, records: bytes | None) -> int:
    config = core.store.topics[topic].config
    batch = checked(records, config.max_message_bytes)
    assert records is not None
    end = partition.end
    base_offset = partition.append(records, batch, now_ms(), config.segment_bytes)
    if partition.end == end:
        core.counters.duplicates += 1
    else:
        core.counters.batches += 1
        core.counters.records += batch.records
        core.counters.bytes_in += batch.size
    return base_offset


def init_producer_id(core: Core, _caller: Caller, request: Any) -> Fields:
    """A fresh producer id for an idempotent producer."""
    none = {"producer_id": -1, "producer_epoch": -1}
    if request.transactional_id is not None:
        return none | {"error_code": ErrorCode.invalid_request}
    try:
        producer_id = core.store.registry.new_producer_id()
    except sqlite3.Error as error:
        core.complain(Refused(ErrorCode.kafka_storage_error, f"no producer id can be given: {error}"))
        return none | {"error_code": ErrorCode.coordinator_not_available}  # what clients try again after
    return {"error_code": ErrorCode.none, "producer_id": producer_id, "producer_epoch": 0}
