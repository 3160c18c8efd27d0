"""Verified reading: refusals, three attempts, dead letters, folds that halt, key rotation, and the tail."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.topics import DEADLETTER, EMERGENCY, PARTITIONS, RUNS
from esper.errors import LogUnavailable
from esper.leyline.envelope import body_name
from esper.leyline.signing import KeyRing
from streams.metrics import Metrics
from streams.reader import Intake, record_of, tail
from streams.records import headers_of, outgoing, partition_of


async def put(address, record, headers):
    """Write raw bytes past everything that would sign or check them; their record as a consumer sees it."""
    producer = AIOKafkaProducer(bootstrap_servers=address)
    await producer.start()
    try:
        where = await producer.send_and_wait(
            record.topic,
            record.payload,
            key=record.key,
            partition=partition_of(record.key, PARTITIONS),
            headers=headers,
        )
    finally:
        await producer.stop()
    return await at(address, where.topic, where.partition, where.offset)


async def at(address, topic, partition, offset):
    consumer = AIOKafkaConsumer(bootstrap_servers=address, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        place = TopicPartition(topic, partition)
        consumer.assign([place])
        consumer.seek(place, offset)
        return record_of(await asyncio.wait_for(consumer.getone(), 10.0))
    finally:
        await consumer.stop()


class Recorder:
    """A handler that fails its first `failures` times."""

    def __init__(self, failures=0):
        self.failures = failures
        self.calls = 0
        self.handled = []

    async def __call__(self, event, record):
        self.calls += 1
        if self.calls <= self.failures:
            raise ValueError(f"boom {self.calls}")
        self.handled.append((event, record))


@pytest.fixture
def take(log, ring, publishing):
    """Give one record to an intake with a handler."""

    async def once(record, handler, *, name="reader", metrics=None, fold=False):
        async with publishing() as publisher:
            intake = Intake(name, ring, publisher, metrics or Metrics(), handler, fold=fold)
            await intake.take(record)
            return intake

    return once


def signed(ring, event):
    record = outgoing(event)
    return record, headers_of(ring.sign(record.payload))


@pytest.mark.requirement("R-OONA-8")
@pytest.mark.asyncio
async def test_a_good_record_is_handled_once_and_counted(log, ring, events, take, metrics):
    event = events.fact()
    record = await put(log.address, *signed(ring, event))
    handler = Recorder()

    await take(record, handler, metrics=metrics)

    assert handler.handled == [(event, record)]
    assert metrics.value("esper_oona_consume_total", topic="esper.runs") == 1
    assert metrics.value("esper_oona_consume_latency_seconds_count", topic="esper.runs") == 1


@pytest.mark.requirement("R-OONA-21")
@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["unsigned", "stranger", "tampered"])
async def test_a_bad_signature_is_dropped_counted_and_told_of_once(log, ring, events, take, metrics, kind, whole_topic):
    record, headers = signed(ring, events.fact())
    if kind == "unsigned":
        headers = []
    if kind == "stranger":
        headers = headers_of(KeyRing((b"s" * 32,)).sign(record.payload))
    payload = record.payload[:-1] + b"!" if kind == "tampered" else record.payload
    reason = "missing_signature" if kind == "unsigned" else "invalid_signature"
    on_log = await put(log.address, type(record)(record.topic, record.key, payload), headers)
    handler = Recorder()

    await take(on_log, handler, metrics=metrics)
    await take(on_log, handler, name="another")

    assert handler.calls == 0
    assert metrics.value("esper_security_signature_fail_total", topic="esper.runs", reason=reason) == 1
    told = [
        event
        for event in await whole_topic(EMERGENCY)
        if body_name(event) == "security_violation" and on_log.place in event.security_violation.detail
    ]
    assert {event.event_id for event in told} == {told[0].event_id}, "two consumers tell of it under one id"
    assert told[0].security_violation.reason == reason
    assert told[0].priority == leyline_pb2.MESSAGE_PRIORITY_CRITICAL


@pytest.mark.asyncio
async def test_a_handler_that_fails_twice_is_tried_a_third_time(log, ring, events, take, metrics):
    record = await put(log.address, *signed(ring, events.telemetry()))
    handler = Recorder(failures=2)

    await take(record, handler, metrics=metrics)

    assert handler.calls == 3
    assert len(handler.handled) == 1
    assert metrics.value("esper_oona_retry_total", handler="reader") == 2
    assert metrics.value("esper_oona_dead_letter_total", topic="esper.telemetry") == 0


@pytest.mark.requirement("R-OONA-7", "R-NIS-3")
@pytest.mark.asyncio
async def test_after_three_attempts_a_record_is_a_dead_letter_with_its_cause_and_its_bytes(
    log, ring, events, take, metrics, whole_topic
):
    record = await put(log.address, *signed(ring, events.telemetry()))
    handler = Recorder(failures=99)

    await take(record, handler, metrics=metrics)
    await take(record, Recorder(failures=99))

    assert handler.calls == 3
    assert metrics.value("esper_oona_dead_letter_total", topic="esper.telemetry") == 1
    letters = [
        event
        for event in await whole_topic(DEADLETTER)
        if (event.dead_lettered.partition, event.dead_lettered.offset) == (record.partition, record.offset)
        and event.dead_lettered.topic == record.topic
    ]
    assert len({letter.event_id for letter in letters}) == 1, "a redelivery gives the same letter"
    letter = letters[0].dead_lettered
    assert (letter.handler, letter.attempts, letter.cause) == ("reader", 3, "ValueError: boom 3")
    assert letter.record == record.signed.payload
    assert letters[0].run_id == events.run_id


@pytest.mark.asyncio
async def test_signed_bytes_that_are_no_event_are_a_dead_letter_at_once(log, ring, events, take, whole_topic):
    record, _ = signed(ring, events.fact())
    nonsense = b"\xff\xff not protobuf"
    on_log = await put(log.address, type(record)(record.topic, record.key, nonsense), headers_of(ring.sign(nonsense)))

    await take(on_log, Recorder())

    letters = await whole_topic(DEADLETTER)
    assert any(letter.dead_lettered.record == nonsense and letter.dead_lettered.attempts == 1 for letter in letters)


@pytest.mark.asyncio
async def test_a_fold_halts_its_run_at_a_failing_fact_and_says_so_but_never_dead_letters_it(
    log, ring, events, take, metrics, publishing, whole_topic
):
    first = await put(log.address, *signed(ring, events.fact()))
    second = await put(log.address, *signed(ring, events.fact()))
    packet = await put(log.address, *signed(ring, events.telemetry()))
    handler = Recorder(failures=3)
    async with publishing() as publisher:
        intake = Intake("nissa", ring, publisher, metrics, handler, fold=True)
        for record in (first, second, packet):
            await intake.take(record)

    assert intake.halted == {events.run_id}
    assert [record for _, record in handler.handled] == [packet], "only the run's facts are no longer followed"
    assert metrics.value("esper_oona_dead_letter_total", topic="esper.runs") == 0
    said = [event for event in await whole_topic(EMERGENCY) if event.run_id == events.run_id]
    assert [body_name(event) for event in said] == ["telemetry_packet"]
    description = said[0].telemetry_packet.events[0].description
    assert first.place in description
    assert "ValueError: boom 3" in description


@pytest.mark.requirement("R-NIS-28")
@pytest.mark.asyncio
async def test_a_handler_that_needs_the_log_waits_for_it_without_counting_attempts(
    log, ring, events, take, metrics, monkeypatch
):
    monkeypatch.setattr("streams.reader.LOG_PAUSE_S", 0.01)
    record = await put(log.address, *signed(ring, events.fact()))
    calls = []

    async def handler(_event, _record):
        calls.append(1)
        if len(calls) < 6:
            raise LogUnavailable("away")

    await take(record, handler, metrics=metrics)

    assert len(calls) == 6
    assert metrics.value("esper_oona_retry_total", handler="reader") == 0


@pytest.mark.requirement("R-SEC-12")
@pytest.mark.asyncio
async def test_a_rotation_loses_nothing_and_the_old_key_ends_with_it(log, events, publishing):
    old, new = b"o" * 32, b"n" * 32
    before, during, after = KeyRing((old,)), KeyRing((new, old)), KeyRing((new,))
    facts = [events.fact() for _ in range(6)]
    for ring, part in ((before, facts[:2]), (during, facts[2:4]), (after, facts[4:])):
        async with publishing(ring=ring) as publisher:
            await publisher.publish(part)
        if ring is before:
            retired_ns = time.time_ns()

    async def seen(ring):
        return [event async for event in tail(log.address, ring, events.run_id, topics=(RUNS,), follow=False)]

    refused = []
    assert await seen(during) == facts
    assert await seen(KeyRing((new,), retired={old: retired_ns})) == facts
    async for event in tail(
        log.address, after, events.run_id, topics=(RUNS,), follow=False, on_refused=lambda *what: refused.append(what)
    ):
        assert event in facts[2:]
    ours = [why.reason for record, why in refused if events.run_id.encode() in record.signed.payload]
    assert ours == ["invalid_signature"] * 2


@pytest.mark.asyncio
async def test_the_tail_begins_at_the_beginning_and_goes_on_live(log, ring, events, publishing):
    old, new = [events.fact(), events.telemetry()], [events.fact(), events.emergency()]
    seen = []
    async with publishing() as publisher:
        await publisher.publish(old)
        async with asyncio.timeout(20):
            async for event in tail(log.address, ring, events.run_id):
                seen.append(event.event_id)
                if len(seen) == 2:
                    await publisher.publish(new)
                if len(seen) == 4:
                    break

    assert sorted(seen) == sorted(event.event_id for event in (*old, *new))


@pytest.mark.asyncio
async def test_the_tail_of_a_run_holds_no_other_run(log, ring, events, publishing):
    other = next(
        name
        for name in map(str, range(100))
        if partition_of(name.encode(), PARTITIONS) == partition_of(events.run_id.encode(), PARTITIONS)
    )
    mine = events.fact()
    theirs = type(events)(other).fact()
    async with publishing() as publisher:
        await publisher.publish([mine, theirs])

    assert [event async for event in tail(log.address, ring, events.run_id, follow=False)] == [mine]


@pytest.mark.asyncio
async def test_the_tail_of_a_log_that_is_not_there_is_one_line(ring):
    with pytest.raises(LogUnavailable, match=r"the log at 127\.0\.0\.1:1 did not answer"):
        async for _ in tail("127.0.0.1:1", ring, "run"):
            pass


@pytest.mark.asyncio
async def test_what_is_published_together_lies_in_its_order(log, ring, events, publishing):
    batch = [events.fact(event_pb2.StateDigested(occasion=str(index))) for index in range(300)]
    async with publishing() as publisher:
        await publisher.publish(batch)

    assert [event async for event in tail(log.address, ring, events.run_id, follow=False)] == batch


@pytest.mark.asyncio
async def test_a_publisher_survives_a_broker_that_comes_back(own_log, ring, events, publishing):
    async with publishing(address=own_log.address) as publisher:
        await publisher.publish([events.fact()])
        own_log.crash()
        assert not await publisher.answers(timeout_s=0.5)
        own_log.restart()
        await publisher.publish([events.fact()])
        assert await publisher.answers(timeout_s=5.0)

    assert [event.sequence async for event in tail(own_log.address, ring, events.run_id, follow=False)] == [1, 2]
