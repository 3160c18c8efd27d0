"""What Nissa's agent says beside metrics and alerts. With no alert to publish it needs no log."""

from __future__ import annotations

import logging

import pytest

from contracts.leyline.v1 import event_pb2, leyline_pb2
from esper.leyline.envelope import new_event
from esper.leyline.signing import Signed
from streams.agents.nissa import Nissa
from streams.metrics import Metrics
from streams.records import Record


@pytest.mark.requirement("R-LEY-20")
@pytest.mark.parametrize("stage", [77, leyline_pb2.SEED_LIFECYCLE_STAGE_BLENDING])
@pytest.mark.asyncio
async def test_a_value_that_the_contracts_lack_is_one_warning_and_one_count(caplog, stage):
    """R-LEY-20; a redelivery adds nothing."""
    metrics = Metrics()
    nissa = Nissa(None, metrics)
    body = event_pb2.SeedTransitioned(seed_id="s1", to_stage=stage)
    event = new_event(body, event_id=bytes(16), run_id="run", producer="trainer", recorded_at_ns=0)
    record = Record(topic="esper.runs", partition=0, offset=0, timestamp_ms=0, signed=Signed(b""))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            await nissa.handle(event, record)
    unknown = stage == 77

    assert [f"SeedLifecycleStage {stage}" in each.getMessage() for each in caplog.records] == [True] * unknown
    assert metrics.value("esper_leyline_enum_invalid_total", enum="SeedLifecycleStage") == unknown
