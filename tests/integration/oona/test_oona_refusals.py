"""Many records that nobody has signed: one is told of, the others by their number; a signed one always by itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from contracts.leyline.v1 import leyline_pb2
from contracts.topics import COMMANDS, EMERGENCY, RUNS
from esper.leyline import ids
from esper.leyline.envelope import body_name
from esper.leyline.signing import Signed
from streams.metrics import Metrics
from streams.reader import Intake
from streams.records import Record, outgoing
from streams.refusals import Refusals
from streams.trainer_log import KafkaLog

MANY = 50


def unsigned(topic: str, payload: bytes, offset: int) -> Record:
    return Record(topic, 0, offset, 1, Signed(payload))


def test_one_a_window_is_told_of_and_the_number_of_the_others():
    now = [0.0]
    refusals = Refusals(60.0, lambda: now[0])
    records = [unsigned(RUNS.name, b"x", offset) for offset in range(MANY)]

    assert [refusals.first(each, "missing_signature") for each in records] == [True] + [False] * (MANY - 1)
    assert refusals.first(records[0], "invalid_signature")  # another reason is another matter
    assert refusals.first(replace(records[0], topic=COMMANDS.name), "missing_signature")
    assert refusals.summaries(producer="x") == []
    now[0] = 60.0
    (told,) = refusals.summaries(producer="x")
    assert told.security_violation.detail == f"{MANY - 1} more in 60 s, the last at {RUNS.name}/0@{MANY - 1}"
    assert not refusals.counting
    assert refusals.first(records[0], "missing_signature")


@pytest.mark.requirement("R-SEC-9")
@pytest.mark.asyncio
async def test_an_agent_tells_of_many_refusals_by_their_number(log, ring, events, publishing, whole_topic):
    metrics = Metrics()
    async with publishing() as publisher:
        intake = Intake("summing", ring, publisher, metrics, None)
        intake._refusals = Refusals(0.4)
        payload = events.fact().SerializeToString()
        for offset in range(MANY):
            await intake.take(unsigned(RUNS.name, payload, offset))
        assert intake._summing is not None
        await asyncio.wait_for(intake._summing, 10)

    assert metrics.value("esper_security_signature_fail_total", topic=RUNS.name, reason="missing_signature") == MANY
    told = [
        event.security_violation.detail
        for event in await whole_topic(EMERGENCY)
        if body_name(event) == "security_violation" and event.producer == "summing"
    ]
    assert len(told) == 2
    assert told[1].startswith(f"{MANY - 1} more in 0.4 s")


def test_a_trainer_records_one_of_many_unsigned_commands_and_every_signed_one(log, ring, events, run_id):
    """Each added four records to the archive, one of them a fact that is kept for ever."""
    with KafkaLog(log.address, ring, run_id=run_id, metrics=Metrics()) as trainer_log:
        for number in range(MANY):
            command = events.make(
                leyline_pb2.AdaptationCommand(version=1, command_id=ids.text(ids.derived_id(b"x" * 16, "a", number)))
            )
            payload = outgoing(command).payload
            trainer_log._arrived(unsigned(COMMANDS.name, payload, number))
            trainer_log._arrived(Record(COMMANDS.name, 0, 100 + number, 1, ring.sign(payload)))
        taken = trainer_log.take_commands()

    assert sum(signed.signature is None for signed in taken) == 1
    assert sum(signed.signature is not None for signed in taken) == MANY
