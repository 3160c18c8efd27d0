"""The risk engine: ten evaluators in order, never weaker than before, and dimensions that adapt from epoch to epoch."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.leyline.v1 import leyline_pb2 as leyline
from contracts.leyline.v1.event_pb2 import LastDecision, RiskBreaker, RiskMemory
from esper.leyline.objects import ObjectStore
from esper.tamiyo import risk_dimensions as dimensions
from esper.tamiyo import risk_engine as engine
from esper.tamiyo.actions import EVERYTHING, NOTHING, Action, legal_actions
from esper.tamiyo.answer import answer
from esper.tamiyo.decide import rederived
from tests.unit.tamiyo.conftest import make_packet, make_state

GROW = Action("germinate", "s1", "BP009", 170, 0.3)


def with_metrics(state, **metrics):
    state.state.training_metrics.update(metrics)
    return state


def judged(state, wanted=GROW, risk=0.3):
    return engine.judge(state, wanted, risk)


def said(state, wanted=GROW, risk=0.3):
    return [(each.evaluator, each.effect) for each in judged(state, wanted, risk).verdicts]


def leaking():
    return make_state(seeds={"s2": {"isolation_violations": 1}})


CASES = [
    (make_state(), GROW, 0.98, ("policy_risk", "pause")),
    (make_state(), GROW, 0.85, ("policy_risk", "optimizer")),
    (make_state(risk_memory=RiskMemory(conservative_since=3)), GROW, 0.3, ("conservative_mode", "pause")),
    (make_state(last_decision=LastDecision(outcome="timed_out")), GROW, 0.3, ("timeouts", "note")),
    (make_state(), Action("germinate", "s1", "BP044", 10, 0.8), 0.3, ("blueprint_risk", "pause")),
    (make_state(), Action("germinate", "s1", "BP041", 10, 0.6), 0.3, ("blueprint_risk", "optimizer")),
    (make_state(), Action("germinate", "s1", "BP044", 10, 0.3, "pause"), 0.3, ("bsds", "pause")),
    (make_state(), Action("germinate", "s1", "BP044", 10, 0.3, "downgrade"), 0.3, ("bsds", "optimizer")),
    (make_state(probe_loss_history=[1.0, 1.16]), NOTHING, 0.0, ("loss_metrics", "pause")),
    (make_state(probe_loss_history=[1.0, 1.12]), GROW, 0.0, ("loss_metrics", "optimizer")),
    (make_state(probe_loss_history=[1.0, math.nan]), NOTHING, 0.0, ("loss_metrics", "pause")),
    (make_state(hook_ms_before=51.0), GROW, 0.3, ("latency_metrics", "note")),
    (leaking(), NOTHING, 0.0, ("isolation_and_device", "pause")),
    (with_metrics(make_state(), gradient_variance=1.1), GROW, 0.3, ("optimizer_hints", "optimizer")),
    (with_metrics(make_state(), gradient_conflict_rate=0.6), GROW, 0.3, ("optimizer_hints", "optimizer")),
]


@pytest.mark.requirement("R-TAM-28", "R-TAM-29", "R-TAM-30", "R-TAM-31", "R-TAM-32", "R-TAM-33")
@pytest.mark.parametrize(("state", "wanted", "risk", "verdict"), CASES)
def test_each_evaluator_has_its_say(state, wanted, risk, verdict):
    assert verdict in said(state, wanted, risk)
    assert said(make_state()) == []


def test_a_loss_that_rises_within_its_noise_is_none():
    assert said(make_state(probe_loss_history=[1.0, 1.09], probe_loss_stderr=0.05)) == []


figures = st.floats(0.0, 1e3) | st.sampled_from([math.nan, math.inf])


@st.composite
def situations(draw):
    memory = RiskMemory(
        out_of_bounds=draw(st.lists(st.integers(0, 5), min_size=3, max_size=3)),
        conservative_since=draw(st.integers(0, 7)),
        conservative_cause=draw(st.sampled_from(["", "emergency", "bsds"])),
        level=draw(st.integers(0, 4)),
    )
    last = LastDecision(outcome=draw(st.sampled_from(["nothing", "timed_out"])))
    state = make_state(
        probe_loss_history=draw(st.lists(figures, min_size=1, max_size=8)),
        probe_loss_stderr=draw(st.floats(0.0, 0.2)),
        hook_ms_before=draw(st.floats(0.0, 200.0)),
        conservative=draw(st.booleans()),
        seeds={"s2": {"isolation_violations": draw(st.integers(0, 1))}},
        risk_memory=memory,
        last_decision=last,
    )
    with_metrics(state, gradient_norm=draw(figures), gradient_variance=draw(figures))
    wanted = Action(
        draw(st.sampled_from(["nothing", "cull", "fossilize", "germinate", "advance"])),
        "s1",
        "BP009",
        draw(st.integers(0, 10_000)),
        draw(st.floats(0.0, 1.0)),
        draw(st.sampled_from(["none", "note", "downgrade", "pause"])),
    )
    return state, wanted, draw(st.floats(0.0, 1.0))


@pytest.mark.requirement("R-TAM-35")
@settings(max_examples=150, deadline=None)
@given(situations())
def test_a_later_evaluator_never_weakens_what_an_earlier_one_chose(situation):
    state, wanted, risk = situation
    all_of_them = judged(state, wanted, risk)
    strictness = engine.EFFECTS.index(all_of_them.effect)
    so_far = 0
    for verdict in all_of_them.verdicts:
        so_far = max(so_far, engine.EFFECTS.index(verdict.effect))
        assert so_far <= strictness
    assert so_far == strictness
    order = [evaluator.__name__.removeprefix("_") for evaluator in engine.EVALUATORS]
    names = [verdict.evaluator for verdict in all_of_them.verdicts if verdict.evaluator in order]
    assert names == sorted(names, key=order.index)
    assert len([event for event, _ in all_of_them.events if event.startswith("conservative")]) <= 1


@settings(max_examples=100, deadline=None)
@given(situations(), st.floats(0.0, 1.0))
def test_more_risk_is_never_judged_milder(situation, more):
    state, wanted, risk = situation
    riskier = min(1.0, risk + more)

    effects = [engine.EFFECTS.index(judged(state, wanted, each).effect) for each in (risk, riskier)]
    assert effects[0] <= effects[1]


@pytest.mark.requirement("R-TAM-22", "R-TAM-23", "R-TAM-40")
def test_a_dimension_is_linear_between_threshold_and_emergency():
    assert [dimensions.scored(value, 5.0, 20.0) for value in (4.0, 5.0, 12.5, 20.0, 99.0, math.nan)] == [
        0,
        0,
        0.5,
        1,
        1,
        1,
    ]
    assert dimensions.scored(12.5, 5.0, 20.0, 3.0) == 1.0
    assert math.fsum(each.weight for each in dimensions.DIMENSIONS) / dimensions.TOTAL_WEIGHT == pytest.approx(1.0)


@pytest.mark.requirement("R-TAM-25")
def test_it_takes_three_windows_out_of_bounds_before_a_dimension_counts():
    memory, levels = RiskMemory(), []
    for epoch in range(1, 6):
        state = with_metrics(make_state(epoch=epoch, risk_memory=memory), gradient_norm=60.0)
        found = judged(state, NOTHING, 0.0)
        memory = found.memory
        levels.append(found.level)

    assert levels == [0, 0, 2, 2, 2]
    assert judged(make_state(epoch=6, risk_memory=memory), NOTHING, 0.0).level == 0


@pytest.mark.requirement("R-TAM-26", "R-TAM-27")
def test_an_emergency_goes_back_once_and_pauses_after_that():
    memory = RiskMemory(out_of_bounds=[5, 0, 5])
    state = with_metrics(make_state(probe_loss_history=[1.0, 9.0, 1.0], risk_memory=memory), gradient_norm=60.0)
    state.probe_loss_stderr = 50.0  # the rise is within its noise: only the dimensions speak
    state.state.hardware_context.device_type = "cuda"
    state.state.hardware_context.total_memory_gb, state.state.hardware_context.available_memory_gb = 10.0, 1.0
    first = judged(state, NOTHING, 0.0)
    state.risk_memory.CopyFrom(first.memory)
    again = judged(state, NOTHING, 0.0)

    assert (first.effect, first.memory.conservative_cause) == ("rollback", "emergency")
    assert again.effect == "pause"
    checks = [verdict.reason for verdict in first.verdicts if verdict.evaluator == "pre_check"]
    assert [reason.rpartition(" above ")[2] for reason in checks] == ["0.85", "0.3", "10"]


@pytest.mark.requirement("R-TAM-24")
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40))
def test_thresholds_stay_within_half_and_twice_their_base(scores):
    thresholds = [each.base for each in dimensions.DIMENSIONS]
    for score in scores:
        thresholds = dimensions.tuned(thresholds, score)
        for each, threshold in zip(dimensions.DIMENSIONS, thresholds, strict=True):
            assert 0.5 * each.base <= threshold <= 2.0 * each.base


def test_thresholds_are_tuned_every_ten_epochs_and_not_between():
    memory, seen = RiskMemory(), []
    for epoch in range(1, 25):
        memory = judged(make_state(epoch=epoch, risk_memory=memory), NOTHING, 0.0).memory
        seen.append(round(memory.thresholds[0], 6))

    assert [epoch for epoch, (a, b) in enumerate(itertools.pairwise(seen), 2) if a != b] == [10, 20]


@pytest.mark.requirement("R-TAM-36", "R-TAM-37")
def test_conservative_mode_is_entered_once_left_once_and_lasts():
    memory, events, effects = RiskMemory(), [], []
    for epoch in range(1, 8):
        seeds = {"s2": {"isolation_violations": int(epoch == 2)}}
        state = make_state(epoch=epoch, seeds=seeds, risk_memory=memory)
        # the leak is noted as a pause; a critical sheet is what enters the mode
        wanted = Action("germinate", "s1", "BP009", 10, 0.3, "pause") if epoch == 2 else GROW
        found = judged(state, wanted)
        memory = found.memory
        events += [(epoch, name) for name, _ in found.events]
        effects.append(found.effect)

    assert events == [(2, "conservative_entered"), (5, "conservative_exited")]
    assert effects == ["note", "pause", "pause", "pause", "pause", "note", "note"]


@pytest.mark.requirement("R-TAM-38")
def test_three_failures_open_a_breaker_and_one_trial_closes_it_or_opens_it_again():
    breaker = RiskBreaker(name="inference", state=leyline.CIRCUIT_BREAKER_STATE_CLOSED)
    story = [True, True, False, True, True, False, True, False]
    moves = [engine.follow_breaker(breaker, failed=failed, epoch=epoch) for epoch, failed in enumerate(story)]
    assert moves == ["", "", "", "", "opened", "closed", "", ""]

    broken = RiskBreaker(name="inference", state=leyline.CIRCUIT_BREAKER_STATE_OPEN, opened_epoch=4, failures=3)
    assert engine.follow_breaker(broken, failed=True, epoch=4) == ""
    assert engine.follow_breaker(broken, failed=True, epoch=5) == "opened"


@pytest.mark.requirement("R-TAM-39")
def test_levels_that_are_wrong_too_often_ask_for_calibration():
    memory = RiskMemory()
    for number in range(99):
        dimensions.note_outcome(memory, predicted=False, failed=number % 5 == 0)
    assert dimensions.calibration(memory).accuracy is None

    for number in range(99, 1200):
        dimensions.note_outcome(memory, predicted=False, failed=number % 5 == 0)
    found = dimensions.calibration(memory)
    assert (found.outcomes, found.accuracy, found.recalibrate) == (1000, 0.8, True)
    assert memory.ByteSize() < 300


def test_what_it_remembers_comes_from_the_packet_alone():
    state = with_metrics(make_state(risk_memory=RiskMemory(out_of_bounds=[1, 0, 2])), gradient_norm=9.0)
    before = state.SerializeToString(deterministic=True)

    assert judged(state) == judged(state)
    assert state.SerializeToString(deterministic=True) == before


def test_the_heuristic_is_told_and_not_bound_and_a_policy_of_everything_is_bound(tmp_path):
    fields = {"probe_loss_history": [1.0, 1.3], "action_set": EVERYTHING}
    told, bound = (
        answer(make_packet(make_state(policy=name, **fields)), now_ns=1, monotonic=lambda: 0.0).events
        for name in ("heuristic", "explore")
    )

    assert [each.effect for each in told[0].decision_made.verdicts] == ["pause"]
    assert told[0].decision_made.replaced == ""
    made = bound[0].decision_made
    assert made.actions[made.action].split()[0] == "pause"
    assert made.replaced
    assert bound[1].adaptation_command.command_type == leyline.COMMAND_TYPE_PAUSE
    for events, name in ((told, "heuristic"), (bound, "explore")):
        packet = make_packet(make_state(policy=name, **fields))
        assert rederived(events[0].decision_made, packet, ObjectStore(tmp_path)) == ""


@pytest.mark.requirement("R-TAM-17")
def test_everything_comes_behind_what_there_was_in_its_order():
    live = {"s2": {"stage": leyline.SEED_LIFECYCLE_STAGE_TRAINING}}
    old, new = (legal_actions(make_state(seeds=live, action_set=each), EVERYTHING)[0] for each in (0, EVERYTHING))

    assert new[: len(old)] == old
    kinds = [str(action) for action in new[len(old) :]]
    assert kinds == [
        "advance s2",
        "hold s2",
        "adjust x0.5",
        "adjust x1",
        "adjust x2",
        "breaker_open",
        "breaker_close",
        "pause",
    ]
