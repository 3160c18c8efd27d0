"""Risk figures, and evaluators that only ever take actions away."""

from __future__ import annotations

import math

import pytest

from esper.kasmina.lifecycle import PROBATIONARY, TRAINING
from esper.tamiyo.actions import NOTHING, Action, legal_actions
from esper.tamiyo.risk import action_risk, assess, dimension_score, state_risk

READY = {
    "stage": PROBATIONARY,
    "gate_ready": True,
    "contribution": 0.2,
    "contribution_stderr": 0.01,
    "loss_before": 2.0,
}


def kinds_left(state):
    actions, mask = legal_actions(state)
    left = assess(state, actions, mask).mask
    return {action.kind for action, allowed in zip(actions, left, strict=True) if allowed}


@pytest.mark.requirement("R-TAM-22")
def test_a_dimension_is_zero_at_its_base_and_one_at_its_emergency():
    assert dimension_score(5.0, 5.0, 20.0) == 0.0
    assert dimension_score(12.5, 5.0, 20.0) == 0.5
    assert dimension_score(20.0, 5.0, 20.0) == 1.0
    assert dimension_score(1e9, 5.0, 20.0) == 1.0
    assert dimension_score(math.nan, 5.0, 20.0) == 1.0


@pytest.mark.requirement("R-TAM-23")
def test_risk_is_the_chance_that_either_goes_wrong():
    assert action_risk(NOTHING, 0.0) == 0.0
    assert action_risk(Action("germinate", "s1", "BP009", risk=0.3), 0.0) == pytest.approx(0.3)
    assert action_risk(Action("germinate", "s1", "BP009", risk=0.3), 0.5) == pytest.approx(0.65)


@pytest.mark.requirement("R-TAM-31")
def test_a_calm_state_has_no_risk_and_a_wild_one_says_why(make_state):
    assert state_risk(make_state()) == (0.0, [])
    wild = make_state(probe_loss_history=[1.0, 3.0, 0.5, 3.5, 0.2, 4.0], hook_ms_before=80.0)
    wild.state.training_metrics["gradient_norm"] = 12.5
    risk, reasons = state_risk(wild)
    assert risk == pytest.approx(0.30 * 0.5 + 0.20)
    assert [reason.split(" ")[0] for reason in reasons] == ["gradient", "probe", "last"]


def test_a_steady_descent_is_no_variance(make_state):
    assert state_risk(make_state(probe_loss_history=[6.0, 5.0, 4.0, 3.0, 2.0, 1.0])) == (0.0, [])


@pytest.mark.requirement("R-TAM-32", "R-TAM-34")
@pytest.mark.parametrize(
    "troubled",
    [
        {"conservative": True},
        {"probe_loss_history": [1.0, 1.3]},
        {"probe_loss_history": [1.0, math.nan]},
        {"seeds": {"s2": {"stage": TRAINING, "isolation_violations": 1}, "s3": READY}},
    ],
)
def test_trouble_leaves_only_the_safe_actions(make_state, troubled):
    fields = {"seeds": {"s2": {"stage": TRAINING}, "s3": READY}, **troubled}
    assert kinds_left(make_state(seeds=fields["seeds"])) >= {"nothing", "cull"}
    assert kinds_left(make_state(**fields)) == {"nothing", "cull"}


@pytest.mark.requirement("R-TAM-28")
def test_a_small_rise_stops_growth_alone(make_state):
    assert kinds_left(make_state(seeds={"s3": READY})) == {"nothing", "germinate", "cull", "fossilize"}
    rising = make_state(seeds={"s3": READY}, probe_loss_history=[1.0, 1.12])
    assert kinds_left(rising) == {"nothing", "cull", "fossilize"}
    noisy = make_state(seeds={"s3": READY}, probe_loss_history=[1.0, 1.12], probe_loss_stderr=0.1)
    assert "germinate" in kinds_left(noisy)


@pytest.mark.requirement("R-TAM-29")
@pytest.mark.parametrize(("risk", "grows"), [(0.4, True), (0.5, True), (0.51, False), (0.8, False), (1.0, False)])
def test_blueprints_beyond_the_safe_tier_do_not_grow(make_state, risk, grows):
    state = make_state()
    for site in state.sites:
        for option in site.options:
            option.risk = risk
    assert ("germinate" in kinds_left(state)) == grows


@pytest.mark.requirement("R-TAM-34")
def test_a_risky_state_forbids_what_a_calm_one_allows(make_state):
    state = make_state(probe_loss_history=[1.0, 3.0, 0.5, 3.5, 0.2, 0.1])
    state.state.training_metrics["gradient_norm"] = math.nan
    for site in state.sites:
        for option in site.options:
            option.risk = 0.5
    actions, mask = legal_actions(state)
    assessment = assess(state, actions, mask)
    assert max(assessment.risks) == pytest.approx(1 - 0.5 * 0.5)
    state.state.hardware_context.device_type = "cuda"
    state.state.hardware_context.total_memory_gb = 10.0
    state.state.hardware_context.available_memory_gb = 0.1
    assessment = assess(state, actions, mask)
    assert assessment.risks[-1] > 0.85
    assert assessment.mask == [True] + [False] * (len(actions) - 1)
    assert "expected risk of 0.85 or more" in assessment.reasons
