"""Field reports from closed windows: the outcome rule, the figures, and one report a command."""

from __future__ import annotations

import math

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.leyline import ids
from esper.tamiyo.answer import answer
from esper.tamiyo.reports import outcome, report
from esper.testing import FakeClock

STOPPED = FakeClock().clock.monotonic

SUCCESS, NEUTRAL, REGRESSION, ABORTED = (
    leyline.FIELD_REPORT_OUTCOME_SUCCESS,
    leyline.FIELD_REPORT_OUTCOME_NEUTRAL,
    leyline.FIELD_REPORT_OUTCOME_REGRESSION,
    leyline.FIELD_REPORT_OUTCOME_ABORTED,
)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"loss_now": 1.0}, SUCCESS),
        ({"loss_now": 1.5}, REGRESSION),
        ({"loss_now": 1.25}, NEUTRAL),
        ({"loss_now": 1.0, "critical": True}, REGRESSION),
        ({"loss_now": 1.0, "ended_as": "rolled_back"}, ABORTED),
        ({"loss_now": 1.0, "ended_as": "rolled_back", "critical": True}, REGRESSION),
        ({"loss_now": 1.0, "ended_as": "culled"}, REGRESSION),
        ({"loss_now": 1.25, "ended_as": "culled"}, REGRESSION),
        ({"loss_now": 1.0, "ended_as": "culled", "critical": True}, REGRESSION),
        ({"loss_now": 1.0, "ended_as": "fossilized"}, SUCCESS),
        ({"loss_now": 1.25, "ended_as": "fossilized"}, SUCCESS),
        ({"loss_now": 1.5, "ended_as": "fossilized"}, SUCCESS),
        ({"loss_now": 1.0, "ended_as": "fossilized", "critical": True}, REGRESSION),
        ({"loss_now": 1.0, "ended_as": "run_ended"}, NEUTRAL),
        ({"loss_now": 1.5, "ended_as": "run_ended"}, NEUTRAL),
        ({"loss_now": 1.0, "ended_as": "run_ended", "critical": True}, REGRESSION),
        ({"loss_now": math.nan}, REGRESSION),
        ({"loss_at_open": math.nan}, NEUTRAL),
    ],
)
def test_outcome(make_window, fields, expected):
    assert outcome(make_window(**fields)) == expected


@pytest.mark.requirement("R-TAM-46")
def test_the_report_says_what_was_measured(make_window):
    body = report(make_window(), "run", 1_700_000_000_500_000_000)
    assert dict(body.metrics) == pytest.approx(
        {"loss_delta_total": -0.25, "loss_delta_min": -0.25, "loss_delta_max": 0.25, "avg_hook_latency_ms": 4.5}
    )
    assert (body.version, body.seed_id, body.blueprint_id, body.observation_window_epochs) == (1, "s1", "BP009", 3)
    assert (body.training_run_id, body.tamiyo_policy_version, body.notes) == ("run", "heuristic-1", "window")
    assert body.issued_at.ToNanoseconds() == 1_700_000_000_500_000_000
    assert body.command_id == ids.text(make_window().command_id)
    assert not body.follow_up_actions


def test_a_critical_window_asks_for_conservative_mode(make_window):
    (action,) = report(make_window(critical=True), "run", 1).follow_up_actions
    assert action.action_type == "CONSERVATIVE_MODE"


@pytest.mark.requirement("R-TAM-45")
def test_open_windows_are_not_reported_and_each_command_has_one_report(make_state, make_packet, make_window):
    other = ids.derived_id(b"another packet", "tamiyo.command", 0)
    windows = [make_window(), make_window(closed=False), make_window(command_id=other, seed_id="s2")]
    events = answer(make_packet(make_state(policy="none", windows=windows)), now_ns=1, monotonic=STOPPED).events
    reports = [event for event in events if event.WhichOneof("body") == "field_report"]
    assert [event.field_report.seed_id for event in reports] == ["s1", "s2"]
    assert [event.event_id for event in reports] == [
        ids.derived_id(window.command_id, f"tamiyo.report/{reports[0].run_id}", 0)
        for window in (windows[0], windows[2])
    ]
    assert reports[0].causation_id == windows[0].command_id
    assert ids.from_text(reports[0].field_report.report_id) == reports[0].event_id
