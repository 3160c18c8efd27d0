"""Field reports: what became of every decision.

Of an applied seed command by the observation window that the trainer kept over it. Of every other decision (for
nothing, rejected, a pause, a rate, one that did not come in time) an epoch later, by the next packet; and of the last
of a run, which no packet follows, at once.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

from contracts.leyline.v1.event_pb2 import EpochCompleted, LastDecision, ObservationWindow
from contracts.leyline.v1.leyline_pb2 import (
    COMMAND_TYPE_PAUSE,
    FIELD_REPORT_OUTCOME_ABORTED,
    FIELD_REPORT_OUTCOME_NEUTRAL,
    FIELD_REPORT_OUTCOME_REGRESSION,
    FIELD_REPORT_OUTCOME_SUCCESS,
    FieldReport,
    FieldReportOutcome,
    MitigationAction,
)
from esper.leyline import ids

Outcome: TypeAlias = FieldReportOutcome

_BY_ENDING: Final = {
    "fossilized": FIELD_REPORT_OUTCOME_SUCCESS,
    "culled": FIELD_REPORT_OUTCOME_REGRESSION,
    "rewound": FIELD_REPORT_OUTCOME_REGRESSION,
    "rolled_back": FIELD_REPORT_OUTCOME_ABORTED,
    "run_ended": FIELD_REPORT_OUTCOME_NEUTRAL,
}
"""The verdict on a seed is the report's, too: docs/contracts.md, "Outcomes and blending". A run that ended before the
window closed gave none: until then the loss fell, or rose, by the host's own learning at least as much."""


def report_id(window: ObservationWindow, run_id: str) -> bytes:
    """The report's id: one report a command and run, however often its window is delivered.

    A fork inherits its parent's open windows, and each of the two says what became of them in its own history.
    """
    return ids.derived_id(window.command_id, f"tamiyo.report/{run_id}", 0)


def report(window: ObservationWindow, run_id: str, issued_at_ns: int) -> FieldReport:
    """The report on a closed window. Deltas are new minus old, in the unit of the probe loss."""
    body = FieldReport(
        version=1,
        report_id=ids.text(report_id(window, run_id)),
        command_id=ids.text(window.command_id),
        training_run_id=run_id,
        seed_id=window.seed_id,
        blueprint_id=window.blueprint_id,
        outcome=outcome(window),
        metrics={
            "loss_delta_total": window.loss_now - window.loss_at_open,
            "loss_delta_min": window.loss_min - window.loss_at_open,
            "loss_delta_max": window.loss_max - window.loss_at_open,
            "avg_hook_latency_ms": window.hook_ms_mean,
        },
        observation_window_epochs=window.age_epochs,
        tamiyo_policy_version=window.policy_version,
        follow_up_actions=_follow_up(window),
        notes=window.ended_as,
    )
    body.issued_at.FromNanoseconds(issued_at_ns)
    return body


def outcome(window: ObservationWindow) -> Outcome:
    """How the seed ended, where it or its run did; else whether the probe loss fell over the window.

    A critical event is a regression, whatever else is so, and so is a loss that is not finite any more. Where no loss
    was known at the start, as before the first epoch's end, or it was infinite, there is nothing to compare.
    """
    if window.critical:
        return FIELD_REPORT_OUTCOME_REGRESSION
    if window.ended_as in _BY_ENDING:
        return _BY_ENDING[window.ended_as]
    return _by_loss(window.loss_at_open, window.loss_now)


def decision_report_id(decision_id: bytes, run_id: str) -> bytes:
    """The id of the report on a decision that no window watches: one a decision and run, however often it is told."""
    return ids.derived_id(decision_id, f"tamiyo.report/{run_id}", 0)


def decision_of(last: LastDecision) -> bytes:
    """The id of the decision: of one that did not come in time the one that it has when it comes."""
    return last.decision_id or ids.derived_id(last.packet_id, "tamiyo.decide", 0)


def report_on(last: LastDecision, state: EpochCompleted, run_id: str, issued_at_ns: int) -> FieldReport:
    """The report on the decision of an epoch ago, in the epoch's packet (R-TAM-45)."""
    return _decided(
        decision_of(last),
        run_id,
        issued_at_ns,
        command_id=last.command_id,
        outcome=outcome_of(last, state.state.validation_loss),
        delta=state.state.validation_loss - last.loss,
        hook_ms=state.hook_ms_before,
        policy_version=last.policy_version,
        epochs=max(0, state.state.current_epoch - last.epoch),
        notes=last.ended or ": ".join(filter(None, (last.outcome, last.reason))),
    )


def report_at_end(
    decision_id: bytes, command_id: bytes, policy_version: str, run_id: str, issued_at_ns: int
) -> FieldReport:
    """The report on the last decision of a run: it ended before anything came of it."""
    return _decided(
        decision_id,
        run_id,
        issued_at_ns,
        command_id=command_id,
        outcome=FIELD_REPORT_OUTCOME_NEUTRAL,
        delta=0.0,
        hook_ms=0.0,
        policy_version=policy_version,
        epochs=0,
        notes="run_ended",
    )


def outcome_of(last: LastDecision, loss_now: float) -> Outcome:
    """A decision that was undone or refused is aborted; one that came too late, and a pause, say nothing of growth."""
    if last.ended or last.outcome == "rejected":
        return FIELD_REPORT_OUTCOME_ABORTED
    if last.outcome == "timed_out" or last.command_type == COMMAND_TYPE_PAUSE:
        return FIELD_REPORT_OUTCOME_NEUTRAL
    return _by_loss(last.loss, loss_now)


def _decided(
    decision_id: bytes,
    run_id: str,
    issued_at_ns: int,
    *,
    command_id: bytes,
    outcome: Outcome,
    delta: float,
    hook_ms: float,
    policy_version: str,
    epochs: int,
    notes: str,
) -> FieldReport:
    body = FieldReport(
        version=1,
        report_id=ids.text(decision_report_id(decision_id, run_id)),
        command_id=ids.text(command_id) if command_id else "",
        training_run_id=run_id,
        outcome=outcome,
        metrics={"loss_delta_total": delta, "avg_hook_latency_ms": hook_ms},
        observation_window_epochs=epochs,
        tamiyo_policy_version=policy_version,
        notes=notes,
        decision_id=ids.text(decision_id),
    )
    body.issued_at.FromNanoseconds(issued_at_ns)
    return body


def _by_loss(before: float, now: float) -> Outcome:
    """Whether the probe loss fell; a loss that is no number any more is a regression."""
    if not math.isfinite(before):
        return FIELD_REPORT_OUTCOME_NEUTRAL
    delta = now - before
    if not math.isfinite(delta):
        return FIELD_REPORT_OUTCOME_REGRESSION
    if delta < 0.0:
        return FIELD_REPORT_OUTCOME_SUCCESS
    return FIELD_REPORT_OUTCOME_NEUTRAL if delta == 0.0 else FIELD_REPORT_OUTCOME_REGRESSION


def _follow_up(window: ObservationWindow) -> list[MitigationAction]:
    if window.critical:
        return [MitigationAction(action_type="CONSERVATIVE_MODE", rationale="critical event")]
    return []
