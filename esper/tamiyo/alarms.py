"""What Tamiyo says aloud when a risk data sheet stopped a germination: critical for a pause, a warning for less."""

from __future__ import annotations

from contracts.leyline.v1.leyline_pb2 import (
    COMMAND_TYPE_OPTIMIZER,
    COMMAND_TYPE_PAUSE,
    EMERGENCY_LEVEL_CONSERVATIVE,
    TELEMETRY_LEVEL_WARNING,
    AdaptationCommand,
    CommandOptimizerAdjustment,
    EmergencySignal,
    TelemetryEvent,
    TelemetryPacket,
)
from esper.tamiyo.decide import Decision

LR_FACTOR = 0.5
"""What `adjust` makes of the host's learning rate: at most this share of the configured one, however often it is said.
A smaller step is the optimiser's own remedy for a loss that does not fall."""


def sheet_command(body: AdaptationCommand, decision: Decision) -> None:
    """Make `body` the command of an `adjust` or `pause`."""
    if decision.chosen.kind == "pause":
        body.command_type = COMMAND_TYPE_PAUSE
    else:
        body.command_type = COMMAND_TYPE_OPTIMIZER
        adjustment = CommandOptimizerAdjustment(optimizer_id="host", hyperparameters={"lr_factor": LR_FACTOR})
        body.optimizer_adjustment.CopyFrom(adjustment)
    body.annotations["reason"] = decision.risk_reasons[-1]


def alarm(decision: Decision, run_id: str, at_ns: int) -> EmergencySignal | TelemetryPacket | None:
    """The event beside such a command, issued at `at_ns`, Unix nanoseconds; None for every other action."""
    chosen = decision.chosen
    attributes = {"seed_id": chosen.seed_id, "blueprint_id": chosen.blueprint_id}
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
