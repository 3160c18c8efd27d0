"""What an event measures: a pure function from an event to samples of the catalogue's metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from contracts.leyline.v1 import leyline_pb2
from contracts.leyline.v1.leyline_pb2 import CIRCUIT_BREAKER_STATE_CLOSED, CIRCUIT_BREAKER_STATE_OPEN
from esper.leyline import envelope
from esper.leyline.envelope import Event, unknown_values
from esper.nissa.catalogue import BY_NAME, OONA, prometheus_form

MS_PER_S: Final = 1_000.0
"""Divided by, never multiplied with its inverse: 18 ms must be 0.018 s, the very number of the alert rule."""
BREAKER_STATE: Final = "esper_tolaria_breaker_state"
_WORD: Final = re.compile(r"[A-Za-z][\w.:-]{0,63}", re.ASCII)
_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-|[0-9a-f]{16}", re.IGNORECASE)
ALIVE: Final = frozenset(
    {
        leyline_pb2.SEED_LIFECYCLE_STAGE_GERMINATED,
        leyline_pb2.SEED_LIFECYCLE_STAGE_TRAINING,
        leyline_pb2.SEED_LIFECYCLE_STAGE_BLENDING,
        leyline_pb2.SEED_LIFECYCLE_STAGE_SHADOWING,
        leyline_pb2.SEED_LIFECYCLE_STAGE_PROBATIONARY,
    }
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric: added to a counter, set on a gauge, observed by a histogram.

    `scope` is the run that it is about, or the process where there is none: alerts are kept apart by it.
    """

    name: str
    value: float
    scope: str
    labels: Mapping[str, str] = field(default_factory=dict)


def label(text: str) -> str:
    """`text` as the value of a label: "other" where it is an id or no single word, so that series stay few."""
    return text if _WORD.fullmatch(text) and not _ID.search(text) else "other"


def measure(event: Event) -> list[Sample]:
    """The samples in an event; none for a body that measures nothing."""
    name = envelope.body_name(event)
    scope = event.run_id or event.producer
    strangers = [
        Sample("esper_leyline_enum_invalid_total", 1.0, scope, {"enum": enum}) for enum, _ in unknown_values(event)
    ]
    return strangers + [
        Sample(metric, value, scope, {"run": scope} if "run" in BY_NAME[metric].labels else labels)
        for metric, value, labels in _MEASURES.get(name, _nothing)(getattr(event, name))
    ]


_Found = list[tuple[str, float, dict[str, str]]]


def _nothing(_body: Any) -> _Found:
    return []


def _epoch(body: Any) -> _Found:
    state = body.state
    alive = sum(seed.stage in ALIVE for seed in body.seeds)
    found: _Found = [
        ("esper_tolaria_epochs_total", 1.0, {}),
        ("esper_tolaria_training_loss", state.training_loss, {}),
        ("esper_tolaria_probe_loss", state.validation_loss, {}),
        ("esper_tolaria_seeds_active", float(alive), {}),
        ("esper_kasmina_isolation_violations", float(sum(seed.isolation_violations for seed in body.seeds)), {}),
        ("esper_tamiyo_conservative_mode", float(body.conservative), {}),
        ("esper_emergency_level", 0.0, {}),  # the run got on: it has completed an epoch
    ]
    if not math.isnan(state.validation_accuracy):  # a task without classes has none
        found.append(("esper_tolaria_training_accuracy_ratio", state.validation_accuracy, {}))
    if body.hook_ms_before > 0.0:  # the first epoch has none before it
        contended_ms = min(body.hook_contended_ms_before, body.hook_ms_before)
        found += [
            ("esper_tolaria_training_latency_seconds", body.hook_ms_before / MS_PER_S, {}),
            ("esper_tolaria_hook_contended_seconds", contended_ms / MS_PER_S, {}),
            ("esper_tolaria_hook_own_seconds", (body.hook_ms_before - contended_ms) / MS_PER_S, {}),
            ("esper_tolaria_hook_duration_seconds", (body.hook_ms_before - contended_ms) / MS_PER_S, {}),
        ]
    return found


def _step(body: Any) -> _Found:
    return [
        ("esper_tolaria_step_seconds", body.step_ms / MS_PER_S, {}),
        ("esper_tolaria_samples_per_second", body.samples_per_s, {}),
        ("esper_tolaria_gradient_norm", body.gradient_norm, {}),
    ]


def _rolled_back(body: Any) -> _Found:
    """A rewind is counted for itself: it is how a lifecycle ends, and no failure (ruling 31)."""
    if body.level == "rewind":
        return [("esper_kasmina_rewinds_total", 1.0, {})]
    seconds = (body.prepare_ms + body.commit_ms + body.confirm_ms) / MS_PER_S
    found: _Found = [
        ("esper_tolaria_rollback_total", 1.0, {"level": label(body.level)}),
        ("esper_tolaria_rollback_restore_latency_seconds", seconds, {"level": label(body.level)}),
    ]
    if body.deadline_exceeded:
        found.append(("esper_tolaria_rollback_deadline_exceeded_total", 1.0, {}))
    return found


def _gate(body: Any) -> _Found:
    gate = _short(leyline_pb2.SeedLifecycleGate, body.gate)
    return [("esper_kasmina_gates_total", 1.0, {"gate": gate, "passed": str(body.passed).lower()})]


def _transition(body: Any) -> _Found:
    to_stage = _short(leyline_pb2.SeedLifecycleStage, body.to_stage)
    return [("esper_kasmina_seed_transitions_total", 1.0, {"to": to_stage})]


def _applied(body: Any) -> _Found:
    operation = _short(leyline_pb2.SeedOperation, body.operation)
    if operation == "unknown":  # no seed operation: the command's type says what it was
        operation = _short(leyline_pb2.CommandType, body.command_type)
    return [("esper_kasmina_command_applied_total", 1.0, {"operation": operation})]


def _breaker(body: Any) -> _Found:
    state = _short(leyline_pb2.CircuitBreakerState, body.to_state)
    kind = body.breaker.partition("/")[0]  # Kasmina has one for each seed: gradient_isolation/s1
    return [("esper_tolaria_breaker_changes_total", 1.0, {"breaker": label(kind), "state": state})]


def _emergency(body: Any) -> _Found:
    level = _short(leyline_pb2.EmergencyLevel, body.level)
    return [("esper_emergency_signals_total", 1.0, {"level": level}), ("esper_emergency_level", float(body.level), {})]


def _decision(body: Any) -> _Found:
    return [
        ("esper_tamiyo_decisions_total", 1.0, {"policy": label(body.policy)}),
        ("esper_tamiyo_blueprint_risk_ratio", body.risk, {}),
    ]


def _packet(body: Any) -> _Found:
    """A packet's points by their Prometheus names: gauges only, because a packet's totals are no increments."""
    source = label(body.source_subsystem)
    found: _Found = [("esper_telemetry_packets_total", 1.0, {"source": source})]
    for event in body.events:
        found.append(("esper_telemetry_events_total", 1.0, {"source": source, "event": label(event.event_id)}))
        if source == "kasmina" and event.event_id == "violation_recorded":
            found.append(("esper_kasmina_isolation_violations_told_total", 1.0, {}))
    for point in body.metrics:
        name, value = prometheus_form(point.name, point.value)
        metric = BY_NAME.get(name)
        if metric is None or metric.kind != "gauge" or metric in OONA:  # those are of every process, by its own word
            found.append(("esper_nissa_telemetry_unknown_total", 1.0, {}))
        else:
            labels = {each: label(point.attributes.get(each, source)) for each in metric.labels}
            found.append((name, _breaker_state(point) if name == BREAKER_STATE else value, labels))
    return found


def _breaker_state(point: leyline_pb2.MetricPoint) -> float:
    """The breaker's state by number; points without a unit are older ones, which had 0 for closed and 1 for open."""
    if point.unit:
        return point.value
    return float(CIRCUIT_BREAKER_STATE_OPEN if point.value else CIRCUIT_BREAKER_STATE_CLOSED)


def _one(name: str, label_name: str = "", of: Callable[[Any], str] = str) -> Callable[[Any], _Found]:
    """A measure that counts one, labelled with something of the body."""
    return lambda body: [(name, 1.0, {label_name: label(of(body))} if label_name else {})]


def _short(enum: Any, value: int) -> str:
    """`training` for SEED_LIFECYCLE_STAGE_TRAINING; a number that this contract does not know is 0, unknown."""
    prefix = "_".join(enum.Name(0).split("_")[:-1]) + "_"
    return str(enum.Name(value if value in enum.values() else 0)).removeprefix(prefix).lower()


_MEASURES: Final[dict[str, Callable[[Any], _Found]]] = {
    "epoch_completed": _epoch,
    "step_sampled": _step,
    "rolled_back": _rolled_back,
    "gate_evaluated": _gate,
    "seed_transitioned": _transition,
    "command_applied": _applied,
    "breaker_changed": _breaker,
    "decision_made": _decision,
    "telemetry_packet": _packet,
    "decision_timed_out": _one("esper_tolaria_timeout_tamiyo_total"),
    "command_rejected": _one("esper_kasmina_command_rejected_total", "reason", lambda body: str(body.reason)),
    "kernel_attached": lambda body: [("esper_kasmina_kernel_attach_latency_seconds", body.attach_ms / MS_PER_S, {})],
    "checkpoint_saved": lambda body: [("esper_tolaria_checkpoint_bytes", float(body.bytes), {})],
    "conservative_mode_changed": lambda body: [("esper_tamiyo_conservative_mode", float(body.entered), {})],
    "field_report": _one(
        "esper_field_reports_total", "outcome", lambda body: _short(leyline_pb2.FieldReportOutcome, body.outcome)
    ),
    "telemetry_shed": lambda body: [("esper_telemetry_shed_total", float(body.count), {})],
    "security_violation": _one("esper_security_violations_total", "reason", lambda body: str(body.reason)),
    "emergency_signal": _emergency,
    "dead_lettered": _one("esper_dead_letters_total", "source", lambda body: str(body.topic)),
}
