"""Fetch: what is there, or a short wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

from kio.schema.errors import ErrorCode

from streams.broker.codec import Fields
from streams.broker.core import Caller, Core
from streams.broker.errors import Refused

MAX_WAIT_S: Final = 0.1
"""Whatever the client asks. aiokafka sends one fetch per broker at a time, so one that waits long for idle partitions
keeps busy ones waiting (Faust asks for 1.5 s, which halves its throughput)."""
_SESSIONS_SINCE: Final = 7
MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024


def fetch(core: Core, caller: Caller, request: Any) -> Fields | Awaitable[Fields]:
    """Records from each partition that was asked for.

    There are no fetch sessions: session 0 is answered, and clients then name all partitions every time.
    """
    if caller.version >= _SESSIONS_SINCE and request.session_id != 0:
        return {"error_code": ErrorCode.fetch_session_id_not_found, "session_id": 0, "responses": ()}
    answer, enough = _collect(core, request)
    wait_s = min(request.max_wait.total_seconds(), MAX_WAIT_S)
    return answer if enough or wait_s <= 0 else _long_poll(core, request, wait_s)


async def _long_poll(core: Core, request: Any, wait_s: float) -> Fields:
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    deadline = loop.time() + wait_s
    alarm = loop.call_at(deadline, woken.set)
    partitions = [core.store.partition(topic.topic, p.partition) for topic in request.topics for p in topic.partitions]
    for partition in partitions:
        partition.waiters.add(woken.set)
    try:
        while True:
            await woken.wait()
            woken.clear()
            answer, enough = _collect(core, request)
            if enough or loop.time() >= deadline:
                return answer
    finally:  # also when the client goes away
        alarm.cancel()
        for partition in partitions:
            partition.waiters.discard(woken.set)


def _collect(core: Core, request: Any) -> tuple[Fields, bool]:
    """The answer as things stand, and whether it may go out before the wait is over."""
    room = max(1, min(request.max_bytes, MAX_RESPONSE_BYTES))
    found = 0
    failed = False
    responses = []
    for topic in request.topics:
        partitions = []
        for asked in topic.partitions:
            limit = min(asked.partition_max_bytes, room - found)
            answer = _partition(core, topic.topic, asked, limit if found else max(limit, 1))
            found += len(answer["records"])
            failed = failed or answer["error_code"] is not ErrorCode.none
            partitions.append(answer)
        responses.append({"topic": topic.topic, "partitions": partitions})
    return {"responses": responses, "error_code": ErrorCode.none, "session_id": 0}, failed or found >= request.min_bytes


def _partition(core: Core, topic: str, asked: Any, limit: int) -> dict[str, Any]:
    answer = {"partition_index": asked.partition, "error_code": ErrorCode.none, "aborted_transactions": None}
    try:
        partition = core.store.partition(topic, asked.partition)
        records = partition.read(asked.fetch_offset, limit) if limit > 0 else b""
    except Refused as refused:
        none = {"high_watermark": -1, "last_stable_offset": -1, "log_start_offset": -1, "records": b""}
        return answer | none | {"error_code": refused.code}
    core.counters.bytes_out += len(records)
    marks = {"high_watermark": partition.end, "last_stable_offset": partition.end, "log_start_offset": partition.start}
    return answer | marks | {"records": records}
