"""What events measure, and that the catalogue, the rules and the emitted names are one and the same (R-OONA-24)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.leyline.v1.leyline_pb2 import CircuitBreakerState
from esper.leyline.breaker import STATE_NAMES
from esper.leyline.envelope import Event, new_event
from esper.nissa.alerts import RULES
from esper.nissa.catalogue import BY_NAME, METRICS, NISSA, page, prometheus_form
from esper.nissa.measure import measure
from streams.agents.scraped import WATCHED
from streams.metrics import Metrics

BY_THE_AGENT = {
    "esper_training_runs",
    "esper_nissa_ingest_latency_seconds",
    "esper_nissa_alerts_active",
    "esper_nissa_alerts_total",
    "esper_nissa_notifications_total",
    "esper_archive_lag_seconds",
}
"""What Nissa's agent measures of itself (shown in tests/integration/oona)."""

EPOCH_POINTS = (
    *("tolaria.epoch.duration_ms", "tolaria.seeds.attached", "tolaria.epochs.total", "tolaria.mode.conservative"),
    *(f"tolaria.epoch_hook.{part}_ms" for part in ("latency", "assembly", "decision", "command", "acknowledgement")),
    *("tolaria.timeout.tamiyo_total", "tolaria.lr_controller.current_lr", "tolaria.opt.rebuilds_total"),
    *(f"tolaria.rollback.{what}" for what in ("fast_size_bytes", "snapshots_total", "evictions_total")),
    *("tolaria.grad_agg.microbatches_total", "tolaria.grad_agg.conflicts", "weatherlight.restarts_total"),
)

BODIES = (
    event_pb2.EpochCompleted(
        state=leyline_pb2.SystemStatePacket(training_loss=1.5, validation_loss=1.25, validation_accuracy=0.5),
        seeds=[
            event_pb2.SeedObservation(
                seed_id="s1", stage=leyline_pb2.SEED_LIFECYCLE_STAGE_TRAINING, isolation_violations=2
            ),
            event_pb2.SeedObservation(
                seed_id="s2", stage=leyline_pb2.SEED_LIFECYCLE_STAGE_DORMANT, isolation_violations=1
            ),
        ],
        hook_ms_before=4.0,
        hook_contended_ms_before=3.0,
        conservative=True,
    ),
    event_pb2.StepSampled(loss=1.0, gradient_norm=3.0, samples_per_s=1000.0, step_ms=8.0),
    event_pb2.RolledBack(level="fast", prepare_ms=100, commit_ms=200, confirm_ms=50, deadline_exceeded=True),
    event_pb2.GateEvaluated(gate=leyline_pb2.SEED_LIFECYCLE_GATE_G1_GRADIENT_HEALTH, passed=True),
    event_pb2.SeedTransitioned(to_stage=leyline_pb2.SEED_LIFECYCLE_STAGE_BLENDING, from_stage=77),
    event_pb2.CommandApplied(operation=leyline_pb2.SEED_OPERATION_CULL),
    event_pb2.CommandRejected(reason="late"),
    event_pb2.BreakerChanged(breaker="step", to_state=leyline_pb2.CIRCUIT_BREAKER_STATE_OPEN),
    event_pb2.DecisionMade(policy="heuristic", risk=0.25),
    event_pb2.DecisionTimedOut(waited_ms=2000),
    event_pb2.KernelAttached(attach_ms=2.0),
    event_pb2.CheckpointSaved(bytes=4096),
    leyline_pb2.FieldReport(outcome=leyline_pb2.FIELD_REPORT_OUTCOME_SUCCESS),
    leyline_pb2.TelemetryPacket(
        source_subsystem="kasmina",
        metrics=[
            leyline_pb2.MetricPoint(name="oona.queue.depth", value=7),
            leyline_pb2.MetricPoint(name="kasmina.nonce_ledger.size", value=2),
            leyline_pb2.MetricPoint(name="kasmina.nonce_ledger.evictions", value=0),
            leyline_pb2.MetricPoint(name="tezzeret.compile.retry_count", value=1),
            leyline_pb2.MetricPoint(name="tolaria.breaker.state", value=2, unit="state"),
            leyline_pb2.MetricPoint(name="unheard.of", value=1),
        ],
        events=[leyline_pb2.TelemetryEvent(event_id="violation_recorded")],
    ),
    leyline_pb2.TelemetryPacket(
        source_subsystem="tolaria", metrics=[leyline_pb2.MetricPoint(name=name, value=1) for name in EPOCH_POINTS]
    ),
    event_pb2.TelemetryShed(count=5, total=9),
    event_pb2.SecurityViolation(reason="invalid_signature"),
    leyline_pb2.EmergencySignal(level=leyline_pb2.EMERGENCY_LEVEL_HALT),
    event_pb2.DeadLettered(topic="esper.telemetry"),
    event_pb2.RolledBack(level="rewind", seed_id="s1"),
)


def samples(body):
    event = new_event(body, event_id=bytes(16), run_id="run-a", producer="trainer", recorded_at_ns=0)
    return {sample.name: sample for sample in measure(event)}


def test_a_rewind_is_no_rollback():
    """It counts toward no alert, and so into nothing that an alert looks at (ruling 31)."""
    rewind = event_pb2.RolledBack(level="rewind", seed_id="s1", prepare_ms=900, deadline_exceeded=True)

    assert samples(rewind).keys() == {"esper_kasmina_rewinds_total"}


@pytest.mark.requirement("R-TAM-58", "R-TEZ-25", "R-URZA-27")
def test_every_metric_of_nissa_is_emitted_by_some_event_and_nothing_else_is():
    emitted = {name for body in BODIES for name in samples(body)}

    assert emitted | BY_THE_AGENT == {metric.name for metric in NISSA}


def test_every_alert_watches_a_metric_that_events_carry_or_a_process_is_asked_for():
    emitted = {name for body in BODIES for name in samples(body)}

    asked_for = {name for names in WATCHED.values() for name in names} | {"esper_archive_lag_seconds"}

    assert {rule.metric for rule in RULES} <= emitted | asked_for
    assert not emitted & asked_for


def test_a_sample_has_the_labels_of_its_metric():
    for body in BODIES:
        for sample in samples(body).values():
            assert set(sample.labels) == set(BY_NAME[sample.name].labels), sample.name


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_have_their_prefix_base_unit_and_counter_suffix(metric):
    assert re.fullmatch(r"esper_[a-z0-9_]+", metric.name)
    assert not re.search(r"_(ms|us|percent|kb|mb|gb)(_|$)", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert metric.help


def test_the_page_has_every_metric_as_the_code_has_it():
    written = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text("utf-8")

    assert written == page(), "make it by `python -m esper.nissa.catalogue docs`"
    assert [metric.name for metric in METRICS if f"| `{metric.name}` |" not in written] == []


def test_a_label_is_never_an_id_but_that_of_a_run_that_goes_on():
    """A run's series go with it, and at most fifty have any (`streams/agents/nissa.py`)."""
    few = {"topic", "partition", "writer", "handler", "reason", "outcome", "strategy", "breaker", "projection"}
    few |= {
        "run",
        "level",
        "state",
        "to",
        "gate",
        "passed",
        "operation",
        "policy",
        "enum",
        "source",
        "event",
        "rule",
        "way",
    }

    assert {name for metric in METRICS for name in metric.labels} <= few | {"channel", "process", "status"}


def test_no_metric_is_listed_twice():
    assert len(BY_NAME) == len(METRICS)


def test_an_epoch_is_measured_in_base_units():
    found = {name: sample.value for name, sample in samples(BODIES[0]).items()}

    assert found["esper_tolaria_training_latency_seconds"] == pytest.approx(0.004)
    assert found["esper_tolaria_hook_contended_seconds"] == pytest.approx(0.003)
    assert found["esper_tolaria_hook_own_seconds"] == pytest.approx(0.001)
    assert found["esper_tolaria_training_accuracy_ratio"] == 0.5
    assert found["esper_tolaria_seeds_active"] == 1
    assert found["esper_kasmina_isolation_violations"] == 3
    assert found["esper_tamiyo_conservative_mode"] == 1


def test_an_epoch_that_had_no_hook_before_it_has_no_hook_time():
    assert "esper_tolaria_training_latency_seconds" not in samples(event_pb2.EpochCompleted())


def test_labels_are_the_contracts_names_in_short():
    assert samples(BODIES[3])["esper_kasmina_gates_total"].labels == {"gate": "g1_gradient_health", "passed": "true"}
    assert samples(BODIES[4])["esper_kasmina_seed_transitions_total"].labels == {"to": "blending"}


def test_a_value_that_the_contract_does_not_know_is_unknown_and_counted_once():
    """R-LEY-20."""
    found = samples(event_pb2.SeedTransitioned(to_stage=77))

    assert found["esper_kasmina_seed_transitions_total"].labels == {"to": "unknown"}
    assert found["esper_leyline_enum_invalid_total"].labels == {"enum": "SeedLifecycleStage"}
    assert found["esper_leyline_enum_invalid_total"].value == 1


def test_a_command_that_is_no_seed_operation_is_counted_by_its_type():
    body = event_pb2.CommandApplied(command_type=leyline_pb2.COMMAND_TYPE_ROLLBACK)

    assert samples(body)["esper_kasmina_command_applied_total"].labels == {"operation": "rollback"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("oona.queue.depth", 7.0, ("esper_oona_queue_depth", 7.0)),
        ("tolaria.training.latency_ms", 18.0, ("esper_tolaria_training_latency_seconds", 0.018)),
        ("tamiyo.decide_us", 250.0, ("esper_tamiyo_decide_seconds", 0.00025)),
        ("host.cpu.util_percent", 50.0, ("esper_host_cpu_util_ratio", 0.5)),
    ],
)
def test_the_originals_names_take_the_prometheus_form(name, value, expected):
    found_name, found_value = prometheus_form(name, value)

    assert found_name == expected[0]
    assert found_value == pytest.approx(expected[1])


def test_every_body_of_the_contract_can_be_measured():
    for field in Event.DESCRIPTOR.oneofs_by_name["body"].fields:
        event = Event(event_id=bytes(16), run_id="run-a")
        getattr(event, field.name).SetInParent()
        for sample in measure(event):
            assert sample.name in BY_NAME


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("violation_recorded", "violation_recorded"),
        ("0197a3f0-5c1e-7d2a-9b4f-3c2d1e0f9a8b", "other"),
        ("0197a3f05c1e7d2a9b4f3c2d1e0f9a8b", "other"),
        ("the disk is full", "other"),
        ("", "other"),
        ("x" * 65, "other"),
    ],
)
def test_an_id_or_a_sentence_never_becomes_a_label(told, shown):
    """Each value of a label is a series that Prometheus keeps."""
    packet = leyline_pb2.TelemetryPacket(source_subsystem=told, events=[leyline_pb2.TelemetryEvent(event_id=told)])

    assert samples(packet)["esper_telemetry_events_total"].labels == {"source": shown, "event": shown}
    assert samples(event_pb2.CommandRejected(reason=told))["esper_kasmina_command_rejected_total"].labels == {
        "reason": shown
    }


def test_a_breaker_of_one_seed_is_counted_as_one_of_its_kind():
    found = samples(event_pb2.BreakerChanged(breaker="gradient_isolation/s17", to_state=2))

    assert found["esper_tolaria_breaker_changes_total"].labels == {"breaker": "gradient_isolation", "state": "open"}


@pytest.mark.parametrize(("value", "unit", "shown"), [(1, "state", 1), (2, "state", 2), (0, "", 1), (1, "", 2)])
def test_a_breaker_has_one_number_for_each_state_in_old_packets_too(value, unit, shown):
    """Older trainers said 0 for closed and 1 for open, without a unit."""
    point = leyline_pb2.MetricPoint(name="tolaria.breaker.state", value=value, unit=unit)
    packet = leyline_pb2.TelemetryPacket(source_subsystem="tolaria", metrics=[point])

    assert samples(packet)["esper_tolaria_breaker_state"].value == shown


def test_every_gauge_of_a_breaker_says_the_numbers_of_the_contract():
    numbers = "1 closed, 2 open, 3 half-open"
    gauges = [metric for metric in METRICS if metric.name.endswith("breaker_state")]

    assert list(STATE_NAMES) == [1, 2, 3]
    assert {CircuitBreakerState.Name(number).split("STATE_")[1] for number in STATE_NAMES} == {
        "CLOSED",
        "OPEN",
        "HALF_OPEN",
    }
    assert len(gauges) == 4
    assert [gauge.name for gauge in gauges if numbers not in gauge.help] == []


def test_one_process_can_serve_every_metric():
    """Prometheus keeps a counter's name without its ending: a gauge of that name stopped the worker at every epoch."""
    metrics = Metrics()
    add = {"counter": metrics.count, "gauge": metrics.set, "histogram": metrics.observe}
    for metric in METRICS:
        add[metric.kind](metric.name, 1.0, **dict.fromkeys(metric.labels, "x"))

    assert len(metrics.render().split(b"# HELP")) > len(METRICS)
