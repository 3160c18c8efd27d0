"""The answer to a state packet, as events: the decision, its command, an alarm, and the reports that fell due.

Ids and the command's bytes depend on the packet alone. The log delivers at least once, so a packet can be answered
twice: the second command must then be the first one byte for byte, or the trainer would take it for a replayed nonce.
Hence a command is issued at its packet's time, which is also the trainer's own clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from contracts.leyline.v1.event_pb2 import DecisionMade, ObservationWindow
from contracts.leyline.v1.leyline_pb2 import (
    CIRCUIT_BREAKER_STATE_CLOSED,
    CIRCUIT_BREAKER_STATE_OPEN,
    COMMAND_TYPE_CIRCUIT_BREAKER,
    COMMAND_TYPE_OPTIMIZER,
    COMMAND_TYPE_PAUSE,
    COMMAND_TYPE_ROLLBACK,
    COMMAND_TYPE_SEED,
    EMERGENCY_LEVEL_CONSERVATIVE,
    MESSAGE_PRIORITY_CRITICAL,
    MESSAGE_PRIORITY_HIGH,
    SEED_OPERATION_ADVANCE,
    SEED_OPERATION_CULL,
    SEED_OPERATION_FOSSILIZE,
    SEED_OPERATION_GERMINATE,
    SEED_OPERATION_HOLD,
    TELEMETRY_LEVEL_CRITICAL,
    TELEMETRY_LEVEL_INFO,
    TELEMETRY_LEVEL_WARNING,
    AdaptationCommand,
    CommandOptimizerAdjustment,
    CommandSeedOperation,
    EmergencySignal,
    FieldReport,
    SeedOperation,
    TelemetryEvent,
    TelemetryLevel,
    TelemetryPacket,
)
from esper.errors import ContractViolation
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.tamiyo import coverage, reports
from esper.tamiyo.decide import Decision, decide, draw_for
from esper.tamiyo.policy import Policy
from esper.tamiyo.risk_engine import VERSION
from esper.tamiyo.serving import Serving

PRODUCER: Final = "tamiyo"
INLINE_OBSERVATION_BYTES: Final = 4096
EXECUTION_DEADLINE_MS: Final = 2000
MOST_OF_A_REASON: Final = 80
"""Characters: a command keeps its size."""
LR_FACTOR: Final = 0.5
"""What `adjust` makes of the host's learning rate: at most this share of the configured one, however often it is said.
A smaller step is the optimiser's own remedy for a loss that does not fall."""

_OPERATIONS: Final[dict[str, SeedOperation]] = {
    "germinate": SEED_OPERATION_GERMINATE,
    "cull": SEED_OPERATION_CULL,
    "fossilize": SEED_OPERATION_FOSSILIZE,
    "advance": SEED_OPERATION_ADVANCE,
    "hold": SEED_OPERATION_HOLD,
}


@dataclass(frozen=True, slots=True)
class Answered:
    """Events to publish in this order, after `objects` are durable in the object store."""

    events: list[Event]
    objects: list[bytes]


def answer(event: Event, *, now_ns: int, monotonic: Callable[[], float], serving: Serving | None = None) -> Answered:
    """The answer to an `EpochCompleted` event; `now_ns` is when decisions and reports are recorded, Unix nanoseconds.

    `serving` has the learned policies; without it there is the shipped one alone. `monotonic` gives seconds: the
    decision says how long deciding took, and nothing else depends on it. Raises ContractViolation for any other event,
    and InvalidInput for a policy that does not exist.
    """
    if event.WhichOneof("body") != "epoch_completed":
        raise ContractViolation(f"tamiyo answers epoch_completed events, not {event.WhichOneof('body')}")
    started = monotonic()
    state = event.epoch_completed
    observation = state.SerializeToString(deterministic=True)
    policy = (serving or Serving()).find(state.policy, event.recorded_at_ns, event.run_id)
    decision = decide(observation, policy, draw_for(state.policy_seed, event.timeline, state.state.current_epoch))
    made = _decision_event(event, policy, decision, observation, now_ns)
    made.decision_made.latency_ms = (monotonic() - started) * 1e3
    events = [made]
    if made.decision_made.command_id:
        events.append(_command_event(event, policy, decision, made))
    signal = _alarm(decision, event.run_id, event.recorded_at_ns)
    if signal is not None:
        events.append(_alarm_event(event, signal, made))
    if decision.judged.events and policy.risk_engine >= VERSION:
        events.append(_mode_event(event, decision, made))
    degraded = coverage.degraded(decision.coverage, event.recorded_at_ns)
    if degraded is not None:
        events.append(_alarm_event(event, degraded, made, ordinal=1))
    events += [_report_event(event, window, now_ns) for window in state.windows if window.closed]
    events += _decision_reports(event, made, now_ns)
    return Answered(events, [observation] if len(observation) > INLINE_OBSERVATION_BYTES else [])


def _decision_event(packet: Event, policy: Policy, decision: Decision, observation: bytes, now_ns: int) -> Event:
    digest = hashlib.sha256(observation).digest()
    inline = len(observation) <= INLINE_OBSERVATION_BYTES
    acts = decision.chosen.kind != "nothing"
    body = DecisionMade(
        packet_id=packet.event_id,
        policy=policy.name,
        policy_version=policy.version,
        policy_hash=policy.digest,
        policy_ref=policy.ref,
        observation=observation if inline else b"",
        observation_ref="" if inline else f"sha256:{digest.hex()}",
        observation_hash=digest,
        action_mask=bytes(decision.mask),
        logits=decision.logits,
        draw=decision.draw,
        action=decision.action,
        actions=[str(action) for action in decision.actions],
        reason=decision.reason,
        command_id=ids.derived_id(packet.event_id, "tamiyo.command", 0) if acts else b"",
        risk=decision.risk,
        risk_reasons=decision.risk_reasons,
        value_estimate=decision.value_estimate,
        verdicts=[each.message() for each in decision.judged.verdicts],
        risk_engine=policy.risk_engine,
        risk_level=decision.judged.level,
        replaced=decision.replaced,
        risk_memory=decision.judged.memory,
    )
    return _follows(packet, body, ids.derived_id(packet.event_id, "tamiyo.decide", 0), packet.event_id, now_ns)


def _command_event(packet: Event, policy: Policy, decision: Decision, made: Event) -> Event:
    chosen = decision.chosen
    command_id = made.decision_made.command_id
    body = AdaptationCommand(
        version=1,
        command_id=ids.text(command_id),
        target_seed_id=chosen.seed_id,
        execution_deadline_ms=EXECUTION_DEADLINE_MS,
        issued_by=PRODUCER,
        annotations={"policy_version": f"{policy.name}-{policy.version}", "risk": f"{decision.risk:.3f}"},
    )
    if chosen.kind in _OPERATIONS:
        settings = {} if chosen.size == 1.0 else {"factor": chosen.size}
        operation = CommandSeedOperation(
            operation=_OPERATIONS[chosen.kind], blueprint_id=chosen.blueprint_id, parameters=settings
        )
        body.command_type = COMMAND_TYPE_SEED
        body.seed_operation.CopyFrom(operation)
    else:
        _other_command(body, decision)
    body.issued_at.FromNanoseconds(packet.recorded_at_ns)
    return _follows(packet, body, command_id, made.event_id, packet.recorded_at_ns)


def _alarm_event(packet: Event, body: EmergencySignal | TelemetryPacket, made: Event, *, ordinal: int = 0) -> Event:
    event_id = ids.derived_id(packet.event_id, "tamiyo.alarm", ordinal)
    if isinstance(body, TelemetryPacket):
        body.packet_id = ids.text(event_id)
    event = _follows(packet, body, event_id, made.event_id, packet.recorded_at_ns)
    critical = isinstance(body, EmergencySignal) or body.level == TELEMETRY_LEVEL_CRITICAL
    event.priority = MESSAGE_PRIORITY_CRITICAL if critical else MESSAGE_PRIORITY_HIGH
    return event


_LEVELS: Final[dict[str, TelemetryLevel]] = {
    "breaker_opened": TELEMETRY_LEVEL_CRITICAL,
    "conservative_entered": TELEMETRY_LEVEL_WARNING,
}


def _mode_event(packet: Event, decision: Decision, made: Event) -> Event:
    """What changed of the risk engine's mode and breakers: CRITICAL where a breaker opened, INFO where one closed."""
    told = [
        TelemetryEvent(event_id=f"tamiyo.{name}", description=why, level=_LEVELS.get(name, TELEMETRY_LEVEL_INFO))
        for name, why in decision.judged.events
    ]
    event_id = ids.derived_id(packet.event_id, "tamiyo.risk", 0)
    level = max(each.level for each in told)
    body = TelemetryPacket(packet_id=ids.text(event_id), source_subsystem="tamiyo", level=level, events=told)
    body.timestamp.FromNanoseconds(packet.recorded_at_ns)
    return _follows(packet, body, event_id, made.event_id, packet.recorded_at_ns)


def _report_event(packet: Event, window: ObservationWindow, now_ns: int) -> Event:
    body = reports.report(window, packet.run_id, packet.recorded_at_ns)
    return _follows(packet, body, reports.report_id(window, packet.run_id), window.command_id, now_ns)


def _decision_reports(packet: Event, made: Event, now_ns: int) -> list[Event]:
    """The reports on decisions that no window watches; none of a trainer that does not tell of them."""
    state, at_ns = packet.epoch_completed, packet.recorded_at_ns
    bodies: list[tuple[bytes, FieldReport]] = []
    if state.HasField("last_decision"):
        last = state.last_decision
        bodies.append((reports.decision_of(last), reports.report_on(last, state, packet.run_id, at_ns)))
    if state.action_set and state.state.current_epoch >= state.epochs_total:
        decided = made.decision_made
        at_end = reports.report_at_end(made.event_id, decided.command_id, decided.policy_version, packet.run_id, at_ns)
        bodies.append((made.event_id, at_end))
    return [
        _follows(packet, body, reports.decision_report_id(decision_id, packet.run_id), decision_id, now_ns)
        for decision_id, body in bodies
    ]


def _follows(
    packet: Event,
    body: DecisionMade | AdaptationCommand | FieldReport | EmergencySignal | TelemetryPacket,
    event_id: bytes,
    causation_id: bytes,
    recorded_at_ns: int,
) -> Event:
    """An event of Tamiyo's at the packet's place in the run."""
    return new_event(
        body,
        event_id=event_id,
        run_id=packet.run_id,
        producer=PRODUCER,
        recorded_at_ns=recorded_at_ns,
        causation_id=causation_id,
        correlation_id=packet.event_id,
        incarnation=packet.incarnation,
        timeline=packet.timeline,
        global_step=packet.global_step,
        epoch=packet.epoch,
    )


def _other_command(body: AdaptationCommand, decision: Decision) -> None:
    """Make `body` the command of an action that is not about a seed's life."""
    chosen = decision.chosen
    reason = decision.risk_reasons[-1] if decision.replaced else decision.reason
    body.annotations["reason"] = reason[:MOST_OF_A_REASON]
    match chosen.kind:
        case "pause":
            body.command_type = COMMAND_TYPE_PAUSE
        case "rollback":
            body.command_type = COMMAND_TYPE_ROLLBACK
            body.rollback_payload.update({"level": "fast"})
        case "breaker_open" | "breaker_close":
            body.command_type = COMMAND_TYPE_CIRCUIT_BREAKER
            opens = chosen.kind == "breaker_open"
            body.circuit_breaker.desired_state = CIRCUIT_BREAKER_STATE_OPEN if opens else CIRCUIT_BREAKER_STATE_CLOSED
            body.circuit_breaker.rationale = body.annotations["reason"]
            body.annotations["breaker"] = "growth"
        case _:
            body.command_type = COMMAND_TYPE_OPTIMIZER
            values = {"lr_factor": LR_FACTOR} if decision.replaced else {"rate": chosen.size}
            adjustment = CommandOptimizerAdjustment(optimizer_id="host", hyperparameters=values)
            body.optimizer_adjustment.CopyFrom(adjustment)


def _alarm(decision: Decision, run_id: str, at_ns: int) -> EmergencySignal | TelemetryPacket | None:
    """The event beside such a command, issued at `at_ns`, Unix nanoseconds; None for every other action."""
    chosen = decision.chosen
    attributes = {"seed_id": chosen.seed_id, "blueprint_id": chosen.blueprint_id}
    if not decision.replaced:
        return None  # what a policy chose itself is no alarm
    if chosen.kind == "pause":
        signal = EmergencySignal(
            version=1,
            level=EMERGENCY_LEVEL_CONSERVATIVE,
            reason=decision.risk_reasons[-1],
            origin="tamiyo",
            run_id=run_id,
            attributes=attributes,
        )
        signal.triggered_at.FromNanoseconds(at_ns)
        return signal
    if chosen.kind == "adjust":
        event = TelemetryEvent(
            event_id="tamiyo.risk_sheet_downgrade",
            description=decision.risk_reasons[-1],
            level=TELEMETRY_LEVEL_WARNING,
            attributes=attributes,
        )
        packet = TelemetryPacket(source_subsystem="tamiyo", level=TELEMETRY_LEVEL_WARNING, events=[event])
        packet.timestamp.FromNanoseconds(at_ns)
        return packet
    return None
