"""The worker's process: events on every topic become metrics, alerts fire once and clear, also across a restart."""

from __future__ import annotations

import asyncio
import time

import pytest

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.topics import EMERGENCY, PARTITIONS
from esper.leyline import ids
from esper.leyline.envelope import body_name
from esper.nissa.catalogue import BY_NAME
from streams.metrics import Metrics
from streams.records import partition_of
from streams.writer import LogWriter
from tests.integration.oona.oona_processes import committed

PARTS = ("_bucket", "_count", "_sum")


@pytest.fixture(scope="module")
def worker(log, data_dir, start_process):
    return start_process("worker", data_dir, log.address)


def slow_epoch(events, milliseconds=25.0):
    return events.fact(event_pb2.EpochCompleted(hook_ms_before=milliseconds))


def alerts(found):
    names = [(body_name(event), getattr(event, body_name(event))) for event in found]
    return [(name, body.rule) for name, body in names if name.startswith("alert_")]


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


@pytest.mark.requirement("R-NIS-10")
def test_an_alert_fires_once_at_the_third_slow_epoch_and_clears_at_the_first_good_one(
    worker, writer, events, read_until
):
    epochs = [slow_epoch(events) for _ in range(4)] + [slow_epoch(events, 9.0)]
    for epoch in epochs:
        writer.publish(epoch)
    writer.flush()

    found = read_until(lambda found: len(found) == 2, topics=(EMERGENCY,))

    assert alerts(found) == [("alert_fired", "training_latency_high"), ("alert_cleared", "training_latency_high")]
    fired = found[0]
    assert fired.event_id == ids.derived_id(epochs[2].event_id, "nissa.fired.training_latency_high")
    assert fired.causation_id == epochs[2].event_id
    assert fired.alert_fired.value == pytest.approx(0.025)
    assert fired.alert_fired.suggested_action


def test_the_end_of_a_run_clears_its_alerts(worker, writer, events, read_until):
    for _ in range(3):
        writer.publish(slow_epoch(events))
    writer.publish(events.fact(event_pb2.RunFinished(status="completed")))
    writer.flush()

    found = read_until(lambda found: len(found) == 2, topics=(EMERGENCY,))

    assert [name for name, _ in alerts(found)] == ["alert_fired", "alert_cleared"]


@pytest.mark.requirement("R-NIS-1")
def test_events_of_every_topic_reach_prometheus(worker, writer, events, scrape):
    run = events.run_id
    for event in (
        events.fact(event_pb2.RunStarted(task="digits")),
        events.fact(event_pb2.SeedTransitioned(to_stage=leyline_pb2.SEED_LIFECYCLE_STAGE_TRAINING)),
        events.make(event_pb2.DecisionMade(policy="heuristic", risk=0.25)),
        events.make(leyline_pb2.FieldReport(version=1, outcome=leyline_pb2.FIELD_REPORT_OUTCOME_SUCCESS)),
        events.make(leyline_pb2.TelemetryPacket(source_subsystem="test-suite")),
        events.make(
            leyline_pb2.TelemetryPacket(source_subsystem="test-suite-urgent"),
            priority=leyline_pb2.MESSAGE_PRIORITY_CRITICAL,
        ),
        events.emergency(),
        events.telemetry(),
        events.make(event_pb2.DeadLettered(topic="esper.reports", handler="test")),
        events.fact(event_pb2.EpochCompleted(state=leyline_pb2.SystemStatePacket(version=1, training_loss=1.5))),
    ):
        writer.publish(event)
    writer.flush()

    expected = (
        f'esper_tolaria_training_loss{{run="{run}"}} 1.5',
        f'esper_tolaria_samples_per_second{{run="{run}"}}',
        f'esper_tamiyo_blueprint_risk_ratio{{run="{run}"}} 0.25',
        'esper_kasmina_seed_transitions_total{to="training"}',
        'esper_field_reports_total{outcome="success"}',
        'esper_telemetry_packets_total{source="test-suite"} 1.0',
        'esper_telemetry_packets_total{source="test-suite-urgent"} 1.0',
        "esper_emergency_signals_total",
        'esper_dead_letters_total{source="esper.reports"}',
        "esper_training_runs",
        "esper_nissa_ingest_latency_seconds_count",
        'esper_nissa_alerts_active{rule="training_latency_high"}',
    )
    wait_for(lambda: all(line in scrape.text(worker) for line in expected))


@pytest.mark.requirement("R-NIS-23")
def test_what_it_emits_is_in_the_catalogue(worker, scrape):
    _, samples = scrape(worker)
    of_histograms = [f"{name}{end}" for name, metric in BY_NAME.items() if metric.kind == "histogram" for end in PARTS]
    created = [f"{name.removesuffix('_total')}_created" for name in BY_NAME]

    emitted = {name for name in samples if not name.startswith("esper_process_")}

    assert emitted <= {*BY_NAME, *of_histograms, *created}


@pytest.mark.requirement("R-OONA-8")
def test_a_redelivered_event_is_counted_once(worker, writer, events, scrape):
    packet = events.make(leyline_pb2.TelemetryPacket(source_subsystem="twice"))
    for _ in range(3):
        writer.publish(packet)
    writer.publish(events.make(leyline_pb2.TelemetryPacket(source_subsystem="afterwards")))
    writer.flush()

    wait_for(lambda: 'source="afterwards"' in scrape.text(worker))
    assert 'esper_telemetry_packets_total{source="twice"} 1.0' in scrape.text(worker)


def test_what_an_alert_counts_and_how_a_run_goes_outlive_a_kill(own_log, ring, events, processes, read_until, scrape):
    """Two slow epochs before it and one afterwards are three in a row; the run's series end with the run."""
    worker = processes("worker", own_log.data_dir, own_log.address)
    with LogWriter(own_log.address, ring, producer="trainer", metrics=Metrics()) as writer:
        for _ in range(2):
            writer.publish(slow_epoch(events))
        writer.flush()
        wait_for(lambda: f'run="{events.run_id}"' in scrape.text(worker))
        place = partition_of(events.run_id.encode(), PARTITIONS)
        assert asyncio.run(committed(own_log, "esper-worker", place, 2, 30.0)) == 2  # so that neither comes again
        worker.kill()
        worker.start()
        writer.publish(slow_epoch(events))
        writer.flush()
        found = read_until(lambda found: len(found) == 1, topics=(EMERGENCY,), address=own_log.address)
        wait_for(lambda: f'run="{events.run_id}"' in scrape.text(worker))
        writer.publish(events.fact(event_pb2.RunFinished(status="completed")))
        writer.flush()

        wait_for(lambda: f'run="{events.run_id}"' not in scrape.text(worker))

    assert alerts(found) == [("alert_fired", "training_latency_high")]


def test_after_a_kill_an_active_alert_does_not_fire_again_and_does_clear(own_log, ring, events, processes, read_until):
    worker = processes("worker", own_log.data_dir, own_log.address)
    with LogWriter(own_log.address, ring, producer="trainer", metrics=Metrics()) as writer:
        for _ in range(3):
            writer.publish(slow_epoch(events))
        writer.flush()
        read_until(lambda found: len(found) == 1, topics=(EMERGENCY,), address=own_log.address)
        worker.kill()
        worker.start()
        for _ in range(4):
            writer.publish(slow_epoch(events))
        writer.publish(slow_epoch(events, 5.0))
        writer.flush()

        found = read_until(
            lambda found: alerts(found)[-1][0] == "alert_cleared", topics=(EMERGENCY,), address=own_log.address
        )

    assert {(name, event.event_id) for (name, _), event in zip(alerts(found), found, strict=True)} == {
        ("alert_fired", found[0].event_id),
        ("alert_cleared", found[-1].event_id),
    }
    code, seconds = worker.terminate()
    assert code == 0
    assert seconds < 2.0
