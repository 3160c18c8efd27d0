"""A producer that is never the limit: batches are encoded before the clock runs, and go out at their times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TypeAlias

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from projections.records import StoredRecord

Signed: TypeAlias = tuple[StoredRecord, list[tuple[str, bytes]]]
Encoded: TypeAlias = list[tuple[str, list[tuple[int, bytes]]]]
"""What one request carries: per topic, a batch per partition."""

PER_REQUEST = 2_000


def encoded(signed: Sequence[Signed]) -> list[Encoded]:
    """The records as the bodies of produce requests, in their order."""
    return [_request(signed[start : start + PER_REQUEST]) for start in range(0, len(signed), PER_REQUEST)]


def _request(signed: Sequence[Signed]) -> Encoded:
    builders: dict[tuple[str, int], tuple[DefaultRecordBatchBuilder, list[int]]] = {}
    for record, headers in signed:
        place = (record.topic, record.partition)
        if place not in builders:
            builders[place] = (DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 2**30), [0])
        builder, count = builders[place]
        builder.append(count[0], record.timestamp, record.key, record.value, headers)
        count[0] += 1
    topics: dict[str, list[tuple[int, bytes]]] = {}
    for (topic, partition), (builder, _) in builders.items():
        topics.setdefault(topic, []).append((partition, bytes(builder.build())))
    return list(topics.items())


async def offer(brokers: str, requests: Sequence[Encoded], rate: float) -> float:
    """Send every request when its time has come and wait until all are acknowledged; the seconds from first to last.

    `rate` is in records a second. Requests do not wait for one another. Raises where the log refuses one.
    """
    client = AIOKafkaClient(bootstrap_servers=brokers)
    await client.bootstrap()
    try:
        await client.set_topics({topic for request in requests for topic, _ in request})
        node = next(iter(client.cluster.brokers())).nodeId
        began = time.perf_counter()
        waiting = []
        for turn, request in enumerate(requests):
            await asyncio.sleep(max(0.0, began + turn * PER_REQUEST / rate - time.perf_counter()))
            waiting.append(asyncio.create_task(_send(client, node, request)))
        await asyncio.gather(*waiting)
        return time.perf_counter() - began
    finally:
        await client.close()


async def _send(client: AIOKafkaClient, node: int, request: Encoded) -> None:
    answer = await client.send(
        node, ProduceRequest(transactional_id=None, required_acks=-1, timeout=30_000, topics=request)
    )
    errors = {code for _, partitions in answer.topics for _, code, *_ in partitions}
    assert errors == {0}, f"the log answered {errors}"
