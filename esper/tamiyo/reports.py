"""Field reports: what became of an applied command, from the observation window that the trainer kept over it."""

from __future__ import annotations

import math
from typing import Final, TypeAlias

from contracts.leyline.v1.event_pb2 import ObservationWindow
from contracts.leyline.v1.leyline_pb2 import (
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
    if not math.isfinite(window.loss_at_open):
        return FIELD_REPORT_OUTCOME_NEUTRAL
    delta = window.loss_now - window.loss_at_open
    if not math.isfinite(delta):
        return FIELD_REPORT_OUTCOME_REGRESSION
    if delta < 0.0:
        return FIELD_REPORT_OUTCOME_SUCCESS
    return FIELD_REPORT_OUTCOME_NEUTRAL if delta == 0.0 else FIELD_REPORT_OUTCOME_REGRESSION


def _follow_up(window: ObservationWindow) -> list[MitigationAction]:
    if window.critical:
        return [MitigationAction(action_type="CONSERVATIVE_MODE", rationale="critical event")]
    return []
