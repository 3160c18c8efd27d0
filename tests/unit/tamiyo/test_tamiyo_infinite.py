"""Figures that are infinite, no number or too large: as little known as each other, and never an error."""

from __future__ import annotations

import math
import random

import pytest

from contracts.leyline.v1.leyline_pb2 import FIELD_REPORT_OUTCOME_NEUTRAL, FIELD_REPORT_OUTCOME_REGRESSION
from esper.kasmina.gates import RULES, Check
from esper.kasmina.lifecycle import BLENDING, G4, PROBATIONARY
from esper.tamiyo import reports
from esper.tamiyo.actions import Action
from esper.tamiyo.decide import decide
from esper.tamiyo.policies import POLICIES
from esper.tamiyo.risk import action_risk, state_risk

INF, NAN = math.inf, math.nan
ODD = (INF, -INF, NAN, 1e308, -1e308, 5e-324)
UNKNOWN = (INF, -INF, NAN)


def with_odd_floats(message, rng: random.Random) -> None:
    """Put an odd figure into some of the message's floats, however deep they lie."""
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in value if field.is_repeated else [value]:
                with_odd_floats(each, rng)
        elif field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT) and rng.random() < 0.5:
            odd = rng.choice([each for each in ODD if field.cpp_type == field.CPPTYPE_DOUBLE or abs(each) != 1e308])
            if field.is_repeated:
                value[rng.randrange(len(value))] = odd
            else:
                setattr(message, field.name, odd)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_no_figure_of_a_packet_makes_a_decision_fail(name, make_state):
    """An infinite probe loss raised: dead letters, timeouts and the breaker came of it."""
    rng = random.Random(name)
    for _ in range(300):
        live = {"stage": rng.choice([BLENDING, PROBATIONARY]), "blueprint_id": "BP009", "gate_ready": True}
        seeds = {"s1": {**live, "contribution": 0.1, "contribution_stderr": 0.1, "loss_before": 1.0}}
        state = make_state(seeds=seeds if rng.random() < 0.5 else {}, probe_loss_history=[1.0] * rng.randrange(1, 8))
        state.state.training_metrics["gradient_norm"] = rng.choice([*ODD, 1.0])
        with_odd_floats(state, rng)
        decision = decide(state.SerializeToString(), POLICIES[name], 0.3)
        assert 0.0 <= decision.risk <= 1.0
        assert decision.mask[decision.action]


@pytest.mark.parametrize("unknown", UNKNOWN)
@pytest.mark.parametrize("place", [0, 4, 5])
def test_a_loss_that_is_not_known_is_a_risk_with_a_reason(make_state, unknown, place):
    history = [2.0, 1.8, 1.6, 1.5, 1.4, 1.3]
    history[place] = unknown
    risk, reasons = state_risk(make_state(probe_loss_history=history))

    assert risk == pytest.approx(0.2)
    assert reasons == ["probe loss variance is not known: nan is no figure to go by"]


@pytest.mark.parametrize("unknown", UNKNOWN)
@pytest.mark.parametrize("history", [[1.3], [1.4, 1.3]])
def test_nothing_grows_on_a_loss_that_is_not_known(make_state, history, unknown):
    """Also in the epoch after it, when the loss is known again and what it rose by is not."""
    for losses in ([*history, unknown], [*history, unknown, 1.2]):
        state = make_state(probe_loss_history=losses, loss=losses[-1])
        state.state.training_loss = 1.941
        decision = decide(state.SerializeToString(), POLICIES["heuristic"], 0.3)
        assert str(decision.chosen) == "nothing"
        assert "big enough" not in decision.reason
        assert "how far the probe loss rose is not known" in decision.reason


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_a_network_that_was_infinitely_wrong_does_not_learn_fast(make_state, unknown):
    state = make_state(probe_loss_history=[unknown, 1.4, 1.3, 1.25])

    assert "learns fast" not in decide(state.SerializeToString(), POLICIES["heuristic"], 0.3).reason


@pytest.mark.parametrize("unknown", UNKNOWN)
@pytest.mark.parametrize("field", ["contribution", "contribution_stderr", "loss_before"])
def test_a_seed_proves_itself_by_no_figure_that_is_not_known(make_state, field, unknown):
    seed = {"stage": PROBATIONARY, "blueprint_id": "BP009", "gate_ready": True}
    seed |= {"contribution": 0.5, "contribution_stderr": 0.01, "loss_before": 2.0, field: unknown}

    decision = decide(make_state(seeds={"s1": seed}).SerializeToString(), POLICIES["heuristic"], 0.3)

    assert decision.chosen.kind != "fossilize"


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_a_blueprint_of_unknown_risk_is_as_risky_as_can_be(unknown):
    action = Action("germinate", "s1", "BP009", risk=unknown)

    assert action_risk(action, 0.0) == 1.0


@pytest.mark.parametrize(
    ("opened", "now", "outcome"),
    [
        (INF, 1.0, FIELD_REPORT_OUTCOME_NEUTRAL),
        (NAN, 1.0, FIELD_REPORT_OUTCOME_NEUTRAL),
        (1.0, INF, FIELD_REPORT_OUTCOME_REGRESSION),
        (1.0, -INF, FIELD_REPORT_OUTCOME_REGRESSION),
        (1.0, NAN, FIELD_REPORT_OUTCOME_REGRESSION),
        (INF, INF, FIELD_REPORT_OUTCOME_NEUTRAL),
    ],
)
def test_a_report_claims_no_success_over_an_unknown_loss(make_window, opened, now, outcome):
    """A loss that was infinite before the command fell by itself, infinitely, and would be a success."""
    assert reports.outcome(make_window(loss_at_open=opened, loss_now=now)) == outcome


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_a_gate_lets_no_figure_pass_that_is_not_known(unknown):
    for gate, rules in RULES.items():
        for figure in rules:
            assert not Check(figure, unknown, 0.0).holds(gate)
    assert Check("loss_now", unknown).holds(G4)  # it is told, and not judged
