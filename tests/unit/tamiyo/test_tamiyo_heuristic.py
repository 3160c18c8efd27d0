"""The heuristic: when it grows, where, what; how it judges a live seed; and what it never does, whatever the state."""

from __future__ import annotations

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.leyline.v1.event_pb2 import MetricValue
from esper.errors import ContractViolation
from esper.kasmina.lifecycle import (
    ALIVE,
    BLENDING,
    DORMANT,
    EMBARGOED,
    FOSSILIZED,
    GERMINATED,
    PROBATIONARY,
    SHADOWING,
    STAGES,
    TRAINING,
)
from esper.tamiyo.actions import legal_actions
from esper.tamiyo.decide import decide
from esper.tamiyo.policies import POLICIES
from esper.tamiyo.policies.heuristic import HEURISTIC

GOOD = {"contribution": 0.2, "contribution_stderr": 0.01, "loss_before": 2.0, "blueprint_id": "BP009"}


def chosen(state, policy="heuristic", draw=0.5):
    decision = decide(state.SerializeToString(), POLICIES[policy], draw)
    assert decision.reason
    return str(decision.chosen)


def reason(state):
    return decide(state.SerializeToString(), HEURISTIC, 0.5).reason


def test_it_grows_at_the_site_with_the_strongest_gradient(make_state):
    assert chosen(make_state()) == "germinate s1 BP009"
    assert chosen(make_state(evidence={"s3": {"gradient_norm": 2.0}})) == "germinate s3 BP009"


def test_the_scale_that_a_layer_works_at_does_not_matter(make_state):
    scaled = {"s3": {"gradient_norm": 1.2, "activation_norm": 5.0}}
    assert chosen(make_state(evidence=scaled)) == "germinate s1 BP009"


@pytest.mark.parametrize(("kind", "first"), [("image", "s1"), ("vector", "s1"), ("token", "s3")])
def test_between_equal_sites_the_earlier_one_feeds_all_and_the_later_token_block_disturbs_none(make_state, kind, first):
    equal = {name: {"gradient_norm": 0.9 + 0.02 * index} for index, name in enumerate(("s1", "s2", "s3"))}
    assert chosen(make_state(kind=kind, evidence=equal)) == f"germinate {first} BP009"


def test_a_site_that_failed_before_loses_pull(make_state):
    assert chosen(make_state(seeds={"s1": {"culls": 1}})) == "germinate s2 BP009"


def test_a_weak_site_is_left_alone(make_state):
    occupied = {"s1": {"stage": FOSSILIZED}}
    weak = {"s2": {"gradient_norm": 0.1}, "s3": {"gradient_norm": 0.1}}
    assert chosen(make_state(seeds=occupied)) == "germinate s2 BP009"
    assert chosen(make_state(seeds=occupied, evidence=weak)) == "nothing"
    assert "no free site" in reason(make_state(seeds=occupied, evidence=weak))


def test_it_takes_what_the_budget_allows(make_state):
    assert chosen(make_state(params_budget=100)) == "germinate s1 BP015"
    assert chosen(make_state(params_budget=20)) == "nothing"
    assert chosen(make_state(params=696 + 850)) == "germinate s1 BP015"


@pytest.mark.parametrize(("epoch", "grows"), [(3, False), (4, True), (22, True), (23, False), (40, False)])
def test_early_but_not_at_once_and_never_late(make_state, epoch, grows):
    assert (chosen(make_state(epoch=epoch)) != "nothing") == grows


def test_a_network_that_is_good_enough_is_left_alone(make_state):
    assert chosen(make_state(accuracy=0.97)) == "nothing"
    assert "big enough" in reason(make_state(accuracy=0.97))
    overfit = make_state()
    overfit.state.training_loss = 0.5
    assert "training loss 0.500 is far below" in reason(overfit)
    assert "learns fast" in reason(make_state(probe_loss_history=[3.5, 2.5, 1.7, 1.2], loss=1.2))


@pytest.mark.parametrize(
    ("accuracy", "metrics", "said"),
    [
        (0.6, [], "right on 60.0% of the probe set with"),
        (0.6, [MetricValue(name="accuracy", unit="%", value=60.0)], "right on 60.0% of the probe set with"),
        (nan, [MetricValue(name="mae", unit="mm", lower_is_better=True, value=0.5)], "mae 0.5000 mm on the probe set"),
    ],
)
def test_it_speaks_of_the_runs_own_metric_and_decides_without_an_accuracy(make_state, accuracy, metrics, said):
    state = make_state(accuracy=accuracy, metrics=metrics)

    assert chosen(state) == "germinate s1 BP009"
    assert said in reason(state)
    assert ("right on" in reason(state)) == (accuracy == 0.6)


@pytest.mark.parametrize("stage", sorted(ALIVE))
def test_one_seed_at_a_time(make_state, stage):
    state = make_state(seeds={"s2": {"stage": stage, **GOOD}})
    assert not chosen(state).startswith("germinate")


def test_it_grows_again_after_a_seed_has_become_part_of_the_network(make_state):
    state = make_state(seeds={"s1": {"stage": FOSSILIZED}}, epoch=14, epochs_since_structural_change=3)
    assert chosen(state) == "germinate s2 BP009"


def test_an_embargo_is_respected(make_state):
    state = make_state(seeds={"s1": {"stage": EMBARGOED, "epochs_until_free": 3}})
    assert chosen(state) == "germinate s2 BP009"


def test_what_was_forbidden_is_said(make_state):
    assert "germinate s1 BP009 was forbidden: conservative mode" in reason(make_state(conservative=True))


def test_a_proven_seed_is_fossilized(make_state):
    assert chosen(make_state(seeds={"s1": {"stage": PROBATIONARY, "gate_ready": True, **GOOD}})) == "fossilize s1"


@pytest.mark.parametrize(
    "unproven",
    [{"gate_ready": False}, {"contribution": 0.005}, {"contribution_stderr": 0.3}, {"stage": SHADOWING}],
)
def test_an_unproven_one_waits(make_state, unproven):
    seed = {"stage": PROBATIONARY, "gate_ready": True, **GOOD, **unproven}
    assert chosen(make_state(seeds={"s1": seed})) == "nothing"


@pytest.mark.parametrize("stage", [BLENDING, SHADOWING, PROBATIONARY])
@pytest.mark.parametrize("harm", [{"contribution": -0.03}, {"loss_before": 1.0}, {"isolation_violations": 1}])
def test_a_harmful_one_is_culled(make_state, stage, harm):
    seed = {"stage": stage, "gate_ready": True, **GOOD, **harm}
    assert chosen(make_state(seeds={"s2": seed})) == "cull s2"


@pytest.mark.parametrize("stage", [GERMINATED, TRAINING])
def test_one_that_is_not_in_the_network_yet_is_not_blamed_for_the_loss(make_state, stage):
    assert chosen(make_state(seeds={"s2": {"stage": stage, "loss_before": 0.5}})) == "nothing"


def test_a_loss_that_is_no_number_is_worse(make_state):
    state = make_state(seeds={"s1": {"stage": BLENDING, **GOOD}}, loss=float("nan"))
    assert chosen(state) == "cull s1"


def test_bytes_that_are_no_observation_are_refused():
    with pytest.raises(ContractViolation, match="not an observation"):
        decide(b"\xff\xff\xff", HEURISTIC, 0.5)


def test_the_hash_of_a_policy_names_its_settings():
    assert len({policy.digest for policy in POLICIES.values()}) == len(POLICIES)
    assert HEURISTIC.digest == POLICIES["heuristic"].digest


FIGURES = st.floats(width=32) | st.floats(-3, 3, width=32)
SEEDS = st.fixed_dictionaries(
    {
        "stage": st.sampled_from([DORMANT, DORMANT, DORMANT, *STAGES[1:]]),
        "epochs_until_free": st.sampled_from([0, 0, 0, 3]),
        "culls": st.integers(0, 3),
        "loss_before": FIGURES,
        "gate_ready": st.booleans(),
        "isolation_violations": st.sampled_from([0, 0, 0, 1]),
    },
    optional={"contribution": FIGURES, "contribution_stderr": FIGURES},
)


@st.composite
def states(draw, build):
    names = ("s1", "s2", "s3")
    total = draw(st.integers(1, 150))
    return build(
        seeds={name: draw(SEEDS) for name in names},
        evidence={name: {"gradient_norm": draw(FIGURES)} for name in names},
        epoch=draw(st.integers(0, total)),
        total=total,
        accuracy=draw(FIGURES),
        loss=draw(FIGURES),
        probe_loss_history=draw(st.lists(FIGURES, max_size=8)),
        probe_loss_stderr=draw(FIGURES),
        params=draw(st.integers(0, 5000)),
        params_budget=draw(st.integers(0, 5000)),
        conservative=draw(st.booleans()),
    )


@given(st.data(), st.floats(0, 1, exclude_max=True), st.sampled_from(["heuristic", "none", "random"]))
def test_whatever_the_state_the_decision_is_legal_pure_and_bounded(make_state, data, draw, policy):
    state = data.draw(states(make_state))
    observation = state.SerializeToString()
    decision = decide(observation, POLICIES[policy], draw)
    assert decision == decide(observation, POLICIES[policy], draw)
    actions, legal = legal_actions(state)
    assert decision.actions == actions
    assert decision.mask[decision.action]
    assert decision.mask[0]
    assert all(open_ or not left for open_, left in zip(legal, decision.mask, strict=True)), "risk only takes away"
    assert all(left for action, left in zip(actions, decision.mask, strict=True) if action.kind == "cull")
    assert 0.0 <= decision.risk <= 1.0
    action = decision.chosen
    stages = {seed.seed_id: seed.stage for seed in state.seeds}
    if action.kind == "germinate":
        assert stages[action.seed_id] == DORMANT
        assert action.parameters <= state.params_budget - max(0, state.params - state.params_host)
        assert not state.conservative
        if policy == "heuristic":
            assert not ALIVE & set(stages.values())
            assert state.state.current_epoch <= 0.55 * state.epochs_total
    if action.kind == "fossilize":
        assert stages[action.seed_id] == PROBATIONARY
    if action.kind == "cull":
        assert stages[action.seed_id] in ALIVE
    if policy == "none":
        assert action.kind == "nothing"
