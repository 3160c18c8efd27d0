"""What Nissa's agent says beside metrics and alerts. With no alert to publish it needs no log."""

from __future__ import annotations

import asyncio
import logging

import pytest

from contracts.leyline.v1 import event_pb2, leyline_pb2
from esper.cli.drills.ear import Ear
from esper.leyline.envelope import new_event
from esper.leyline.signing import Signed
from esper.nissa.measure import Sample
from esper.testing import KEYS
from streams.agents.nissa import IDLE_LOOK_S, Nissa, until_due
from streams.agents.notify import Notifier, channels_of
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.records import Record
from streams.settings import Settings


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


@pytest.mark.requirement("R-NIS-13")
@pytest.mark.asyncio
async def test_while_the_log_takes_nothing_people_are_told_all_the_same():
    """By a real web server; what could not be written waits for the log, under the id that was told."""
    metrics = Metrics()
    publisher = Publisher("127.0.0.1:1", KEYS, metrics)
    with Ear() as ear:
        notifier = Notifier(channels_of(Settings(alert_webhook_url=ear.url)), publisher, metrics)
        nissa = Nissa(publisher, metrics, notifier)
        for second, up in enumerate((1.0, 0.0, 0.0, 1.0)):
            await nissa.look([Sample("esper_oona_log_up", up, "run-a")], second, {"run-a"})
            for _ in range(1_000):
                if len(ear.heard()) < {0: 0, 3: 2}.get(second, 1):
                    await asyncio.sleep(0.01)

        assert [(each.rule, each.run, each.active) for each in ear.heard()] == [
            ("log_down", "run-a", True),
            ("log_down", "run-a", False),
        ]
        assert nissa.waits
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


@pytest.mark.requirement("R-NIS-10")
@pytest.mark.asyncio
async def test_people_are_told_before_the_log_is_asked_to_take_it():
    """A log that hangs holds up the record of an alert, and not the alert."""

    class Hangs(Publisher):
        async def publish(self, *_):
            order.append("written")
            asked.set()
            await asyncio.Event().wait()

    class Tells(Notifier):
        def take(self, event):
            order.append(event.alert_fired.rule)

    order, asked = [], asyncio.Event()
    metrics = Metrics()
    publisher = Hangs("127.0.0.1:1", KEYS, metrics)
    nissa = Nissa(publisher, metrics, Tells({}, publisher, metrics))
    looking = asyncio.create_task(nissa.look([Sample("esper_broker_unwritable", 1.0, "broker")], 0.0, {"broker"}))
    await asked.wait()
    assert order == ["log_disk_full", "written"]
    looking.cancel()


@pytest.mark.requirement("R-NIS-10")
@pytest.mark.asyncio
async def test_an_idle_worker_sees_soon_that_a_run_has_begun(tmp_path, monkeypatch):
    """It slept for half a minute over the first that went wrong in a run."""
    monkeypatch.setattr("streams.agents.nissa.LOOK_S", 0.01)
    nissa = Nissa(None, Metrics())
    waiting = asyncio.create_task(until_due(nissa, tmp_path))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    (tmp_path / "trainer-a.json").write_text("[]")
    await asyncio.wait_for(waiting, IDLE_LOOK_S / 2)


@pytest.mark.asyncio
async def test_the_archive_lags_from_when_it_lacked_what_was_handled():
    metrics = Metrics()
    nissa = Nissa(None, metrics)
    body = event_pb2.CheckpointPruned()

    async def handled(offset):
        event = new_event(body, event_id=offset.to_bytes(16), run_id="run", producer="trainer", recorded_at_ns=0)
        record = Record(topic="esper.runs", partition=1, offset=offset, timestamp_ms=0, signed=Signed(b""))
        await nissa.handle(event, record)

    def lag(archived, now_s):
        return nissa.lag({("esper.runs", 1): archived}, now_s).value

    assert lag(0, 0.0) == 0.0
    await handled(7)
    assert [lag(7, 10.0), lag(7, 15.0), lag(8, 20.0)] == [0.0, 5.0, 0.0]
    await handled(8)
    await handled(9)
    assert [lag(8, 30.0), lag(9, 40.0), lag(10, 41.0), lag(10, 99.0)] == [0.0, 10.0, 0.0, 0.0]
    assert metrics.value("esper_archive_lag_seconds") == 0.0
