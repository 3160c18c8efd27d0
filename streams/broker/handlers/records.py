"""Records in and out: Produce and InitProducerId, Fetch, and ListOffsets (first, next, or first at a time).

Fetches that wait are served in order of urgency. One with `min_bytes` 1 is answered as soon as a record comes. One that
asks for more leaves the broker's one thread, and the machine's cores, to those: it is answered `GATHER_S` after the
first record that it could have, with all that came meanwhile, or at once where `GATHER_BYTES` are there. Where one with
`min_bytes` 1 waits for a single partition, the disk is made ready for the record that it waits for.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, Final

from kio.schema.errors import ErrorCode

from streams.broker.batch import PREFIX_BYTES, checked, compressed, header, says_append_time, stamped
from streams.broker.core import Caller, Core
from streams.broker.handlers.absent import FOR_TRANSACTIONS, NO_TRANSACTIONS, named
from streams.broker.partition import Partition
from streams.broker.protocol import Fields, Refused
from streams.broker.store import now_ms


def produce(core: Core, _caller: Caller, request: Any) -> Fields | Awaitable[Fields | None] | None:
    """Stores each batch, or says for each why not; waits for the disk where the topic asks for it."""
    unsynced: list[Partition] = []
    answer = {"responses": [_produced_topic(core, request, topic, unsynced) for topic in request.topic_data]}
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


def _produced_topic(core: Core, request: Any, topic: Any, unsynced: list[Partition]) -> Fields:
    partitions = [_produced(core, request, topic.name, data, unsynced) for data in topic.partition_data]
    return {"name": topic.name, "partition_responses": partitions}


def _produced(core: Core, request: Any, topic: str, data: Any, unsynced: list[Partition]) -> Fields:
    answer = {"index": data.index, "error_code": ErrorCode.none, "record_errors": ()}
    try:
        _check_produce(request)
        partition = core.store.partition(topic, data.index)
        base_offset, appended_ms = _append(core, topic, partition, data.records)
    except Refused as refused:
        core.complain(refused)
        return answer | _refusal(refused)
    if core.store.topics[topic].config.sync_always:
        unsynced.append(partition)
    return answer | {"base_offset": base_offset, "log_append_time": appended_ms, "log_start_offset": partition.start}


def _check_produce(request: Any) -> None:
    if request.transactional_id is not None:
        raise Refused(FOR_TRANSACTIONS, NO_TRANSACTIONS)
    if request.acks not in {-1, 0, 1}:
        raise Refused(ErrorCode.invalid_required_acks, f"acks={request.acks}")


def _refusal(refused: Refused) -> dict[str, Any]:
    return {"error_code": refused.code, "base_offset": -1, "error_message": refused.why}


def _append(core: Core, topic: str, partition: Partition, records: bytes | None) -> tuple[int, int]:
    """The batch's base offset, and the time (ms) that it was stamped with, -1 for none."""
    config = core.store.topics[topic].config
    batch = checked(records, config.max_message_bytes)
    assert records is not None
    now, end = now_ms(), partition.end
    if config.stamped:
        batch = stamped(records, batch, now)
    elif says_append_time(batch):
        raise Refused(ErrorCode.invalid_timestamp, f"{topic} has its producers' times: the log's cannot be given")
    base_offset = partition.append(records, batch, now, config.segment_bytes)
    if partition.end == end:
        core.counters.duplicates += 1
    else:
        core.counters.batches += 1
        core.counters.records += batch.records
        core.counters.bytes_in += batch.size
    return base_offset, now if config.stamped else -1


def init_producer_id(core: Core, caller: Caller, request: Any) -> Fields:
    """A fresh producer id for an idempotent producer."""
    none = {"producer_id": -1, "producer_epoch": -1}
    if request.transactional_id is not None:
        named(caller, NO_TRANSACTIONS)
        return none | {"error_code": FOR_TRANSACTIONS}
    try:
        producer_id = core.store.registry.new_producer_id()
    except (OSError, sqlite3.Error) as error:
        core.complain(Refused(ErrorCode.kafka_storage_error, f"no producer id can be given: {error}"))
        return none | {"error_code": ErrorCode.coordinator_not_available}  # what clients try again after
    return {"error_code": ErrorCode.none, "producer_id": producer_id, "producer_epoch": 0}


MAX_WAIT_S: Final = 30.0
"""The longest wait, whatever a client asks. An idle client costs a request for every wait."""
GATHER_S: Final = 0.05
GATHER_BYTES: Final = 64 * 1024
URGENT_BYTES: Final = 1
_SESSIONS_SINCE: Final = 7
MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024
_LOG: Final = logging.getLogger(__name__)
LATEST: Final = -1
EARLIEST: Final = -2


def fetch(core: Core, caller: Caller, request: Any) -> Fields | LongPoll:
    """Records from each partition that was asked for.

    There are no fetch sessions: session 0 is answered, and clients then name all partitions every time.
    """
    if caller.version >= _SESSIONS_SINCE and request.session_id != 0:
        return {"error_code": ErrorCode.fetch_session_id_not_found, "session_id": 0, "responses": ()}
    answer, found = _collect(core, request)
    wait_s = min(request.max_wait.total_seconds(), MAX_WAIT_S)
    if wait_s <= 0 or found >= _enough(request):
        return answer
    return LongPoll(core, request, wait_s, anything=found > 0)


def _enough(request: Any) -> int:
    """How many bytes are answered without a wait."""
    if request.min_bytes <= URGENT_BYTES:
        return int(request.min_bytes)
    return min(max(int(request.min_bytes), GATHER_BYTES), int(request.max_bytes))


class LongPoll:
    """A fetch that waits for records. It calls `deliver` once, when `answer` is due; `end` has that happen now."""

    def __init__(self, core: Core, request: Any, wait_s: float, *, anything: bool) -> None:
        self.deliver: Callable[[], None] = lambda: None
        self._core = core
        self._request = request
        self._urgent = request.min_bytes <= URGENT_BYTES
        self._gathering = False
        self._over = False
        self._timer = asyncio.get_running_loop().call_later(wait_s, self.end)
        self._partitions = [
            core.store.partition(topic.topic, p.partition) for topic in request.topics for p in topic.partitions
        ]
        for partition in self._partitions:
            partition.waiters[self._written] = None
        if self._urgent and len(self._partitions) == 1:
            self._partitions[0].make_ready()  # a trainer, whose run's answers and facts come here
        if anything:
            self._written()

    def answer(self) -> Fields:
        """What there is to answer now."""
        return _collect(self._core, self._request)[0]

    def end(self) -> None:
        """Deliver now, unless it was delivered or cancelled."""
        if not self._over:
            self.cancel()
            self.deliver()

    def cancel(self) -> None:
        """Wait no longer, and deliver nothing."""
        self._over = True
        self._timer.cancel()
        for partition in self._partitions:
            partition.waiters.pop(self._written, None)

    def _written(self) -> None:
        """A record came to one of the partitions, or a partition went away."""
        if self._urgent:
            self.end()
        elif not self._gathering:
            self._gathering = True
            loop = asyncio.get_running_loop()
            if loop.time() + GATHER_S < self._timer.when():
                self._timer.cancel()
                self._timer = loop.call_later(GATHER_S, self.end)


def _collect(core: Core, request: Any) -> tuple[Fields, int]:
    """The answer as things stand, and how many bytes of records it has; very many where a partition is refused."""
    room = core.peers.room(max(1, min(request.max_bytes, MAX_RESPONSE_BYTES)))
    found = 0
    failed = False
    responses = []
    for topic in request.topics:
        partitions = []
        for asked in topic.partitions:
            limit = min(asked.partition_max_bytes, room - found)
            answer = _fetched(core, topic.topic, asked, limit if found else max(limit, 1))
            found += len(answer["records"])
            failed = failed or answer["error_code"] is not ErrorCode.none
            partitions.append(answer)
        responses.append({"topic": topic.topic, "partitions": partitions})
    answer = {"responses": responses, "error_code": ErrorCode.none, "session_id": 0}
    return answer, MAX_RESPONSE_BYTES if failed else found


def _fetched(core: Core, topic: str, asked: Any, limit: int) -> dict[str, Any]:
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


def list_offsets(core: Core, _caller: Caller, request: Any) -> Fields:
    """Per partition the offset that the request's timestamp means."""
    return {
        "topics": [
            {"name": topic.name, "partitions": [_offset_of(core, topic.name, asked) for asked in topic.partitions]}
            for topic in request.topics
        ]
    }


def _offset_of(core: Core, topic: str, asked: Any) -> Fields:
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
    """Timestamp and offset of the first record written at `timestamp_ms` or later; (-1, -1) when there is none.

    A compressed batch with its producer's times is not opened, since it may unpack to a thousand times its size: its
    first offset is answered, which is too early at most.
    """
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
    head = header(batch)
    if says_append_time(head) or compressed(head):
        return head.max_timestamp, max(head.base_offset, start)
    from aiokafka.record.default_records import DefaultRecordBatch  # noqa: PLC0415 - 0.1 s that no start should pay

    try:
        for record in DefaultRecordBatch(bytearray(batch)):
            if record.timestamp >= timestamp_ms and record.offset >= start:
                return record.timestamp, record.offset
    except Exception as error:  # noqa: BLE001 - records that are none
        _LOG.warning("offset by time: a batch cannot be opened (%s): its first offset is answered", error)
        return head.max_timestamp, max(head.base_offset, start)
    return None
