"""OffsetCommit and OffsetFetch."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from kio.schema.errors import ErrorCode

from streams.broker.codec import Fields
from streams.broker.core import Caller, Core
from streams.broker.errors import Refused
from streams.broker.registry import Committed

MAX_METADATA: Final = 4096


def commit(core: Core, _caller: Caller, request: Any) -> Fields:
    """Stores a group's positions, all that can be stored in one transaction."""
    refused = _refusal(core, request)
    accepted: dict[tuple[str, int], Committed] = {}
    codes = {
        (topic.name, p.partition_index): refused or _judge(core, topic.name, p, accepted)
        for topic in request.topics
        for p in topic.partitions
    }
    try:
        if accepted:
            core.store.registry.commit(request.group_id, accepted)
    except sqlite3.Error as error:
        core.complain(Refused(ErrorCode.kafka_storage_error, f"group {request.group_id}: offsets not stored: {error}"))
        codes |= dict.fromkeys(accepted, ErrorCode.kafka_storage_error)
    return {"topics": [_topic(topic, codes) for topic in request.topics]}


def _refusal(core: Core, request: Any) -> ErrorCode | None:
    try:
        core.group(request.group_id).check_commit(request.member_id, request.generation_id_or_member_epoch)
    except Refused as refused:
        return refused.code
    return None


def _judge(core: Core, topic: str, position: Any, accepted: dict[tuple[str, int], Committed]) -> ErrorCode:
    try:
        core.store.partition(topic, position.partition_index)
    except Refused as refused:
        return refused.code
    if len(position.committed_metadata or "") > MAX_METADATA:
        return ErrorCode.offset_metadata_too_large
    if position.committed_offset < 0:
        return ErrorCode.invalid_commit_offset_size
    committed = Committed(position.committed_offset, position.committed_metadata)
    accepted[topic, position.partition_index] = committed
    return ErrorCode.none


def _topic(topic: Any, codes: dict[tuple[str, int], ErrorCode]) -> Fields:
    partitions = [
        {"partition_index": p.partition_index, "error_code": codes[topic.name, p.partition_index]}
        for p in topic.partitions
    ]
    return {"name": topic.name, "partitions": partitions}


def committed(core: Core, _caller: Caller, request: Any) -> Fields:
    """A group's positions: those asked for, or all; -1 where there is none."""
    found = core.store.registry.committed(request.group_id)
    if request.topics is None:
        asked: dict[str, list[int]] = {}
        for topic, partition in found:
            asked.setdefault(topic, []).append(partition)
    else:
        asked = {topic.name: list(topic.partition_indexes) for topic in request.topics}
    topics = [
        {"name": name, "partitions": [_position(found.get((name, number)), number) for number in numbers]}
        for name, numbers in asked.items()
    ]
    return {"topics": topics, "error_code": ErrorCode.none}


def _position(position: Committed | None, number: int) -> Fields:
    return {
        "partition_index": number,
        "committed_offset": position.next_offset if position else -1,
        "metadata": position.metadata if position else "",
        "error_code": ErrorCode.none,
    }
