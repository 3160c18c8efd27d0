"""What the heuristic weighs about a blueprint: merit for the shape, past outcomes, then cost; and how it says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.leyline.v1.event_pb2 import BlueprintOption, BlueprintOutcomes, SiteDescription
from contracts.leyline.v1.leyline_pb2 import BLUEPRINT_TIER_SAFE
from esper.tamiyo.decide import decide
from esper.tamiyo.policies.heuristic import HEURISTIC
from esper.tamiyo.policies.merit import BLUEPRINT_MERIT, SETTINGS, merit_of, merits, why

ENOUGH = SETTINGS.enough_lives


def option(blueprint_id, *, kept=0, culled=0, **fields):
    outcomes = BlueprintOutcomes(
        germinated=kept + culled,
        fossilized=kept,
        culled=culled,
        reports=fields.pop("reports", kept + culled),
        loss_delta_mean=fields.pop("delta", 0.0),
        loss_delta_stderr=fields.pop("stderr", 0.0),
    )
    plain = {"parameters": 100, "flops_per_sample": 1000, "risk": 0.3, "tier": BLUEPRINT_TIER_SAFE, "stage": 1}
    return BlueprintOption(blueprint_id=blueprint_id, outcomes=outcomes if kept + culled else None, **(plain | fields))


def decision(state, options):
    for site in state.sites:
        del site.options[:]
        site.options.extend(options)
    return decide(state.SerializeToString(), HEURISTIC, 0.5)


@pytest.mark.parametrize("kind", sorted(BLUEPRINT_MERIT.keys() - {"width", "signal"}))
def test_without_a_past_merit_is_the_table_and_its_best_is_chosen(make_state, kind):
    options = [option(name) for name in ("BP001", "BP008", "BP009", "BP013", "BP015", "BP021", "BP023")]
    table = BLUEPRINT_MERIT[kind]

    for each in options:
        assert merit_of(each, kind) == pytest.approx(table.get(each.blueprint_id, 0.0))
    chosen = decision(make_state(kind=kind, params_budget=5000), options).chosen
    assert chosen.blueprint_id == max(table, key=table.__getitem__)


@pytest.mark.parametrize(
    ("shape", "best"), [((8, 20, 1), "BP060"), ((8, 1, 20), "BP060"), ((8, 8, 8), "BP009"), ((8, 1, 1), "BP009")]
)
def test_over_a_signal_the_convolution_along_it_comes_before_the_residual_block(make_state, shape, best):
    """What it does there is the same, at a third of the cost."""
    state = make_state(kind="image", params_budget=5000)
    for site in state.sites:
        site.shape[:] = shape
    offered = [option("BP009"), option("BP060", flops_per_sample=400), option("BP062", flops_per_sample=100)]

    assert decision(state, offered).chosen.blueprint_id == best


def test_a_few_lives_change_nothing_and_many_failures_do(make_state):
    few = [option("BP009", culled=ENOUGH - 1), option("BP013")]
    many = [option("BP009", culled=200), option("BP013")]

    assert decision(make_state(), few).chosen.blueprint_id == "BP009"
    assert decision(make_state(), many).chosen.blueprint_id == "BP013"


def test_what_the_table_does_not_know_grows_once_its_outcomes_are_good(make_state):
    unknown = option("BP033", kept=ENOUGH * 3, culled=4)

    assert decision(make_state(), [option("BP033", kept=ENOUGH - 1)]).chosen.kind == "nothing"
    assert decision(make_state(), [unknown]).chosen.blueprint_id == "BP033"
    assert decision(make_state(), [unknown, option("BP009")]).chosen.blueprint_id == "BP009"


def test_reports_of_a_rising_loss_cost_merit_and_noise_does_not():
    calm = merit_of(option("BP013", kept=30, culled=30), "image")

    assert merit_of(option("BP013", kept=30, culled=30, delta=0.3, stderr=0.05), "image") < calm
    assert merit_of(option("BP013", kept=30, culled=30, delta=0.3, stderr=0.2), "image") == calm
    assert merit_of(option("BP013", kept=30, culled=30, delta=0.3, stderr=0.05, reports=3), "image") == calm


@pytest.mark.parametrize(
    "dearer",
    [{"flops_per_sample": 1001}, {"parameters": 101}, {"risk": 0.31}, {"stage": 2}],
)
def test_of_equals_the_cheaper_one_comes_first_by_flops_parameters_risk_and_stage(make_state, dearer):
    equals = {name: option(name, kept=60, culled=20) for name in ("BP030", "BP031")}
    for name in equals:
        options = [option(each, kept=60, culled=20, **({} if each == name else dearer)) for each in equals]
        assert decision(make_state(), options).chosen.blueprint_id == name


def test_cost_never_buys_a_worse_blueprint(make_state):
    costly = option("BP009", flops_per_sample=10**9, parameters=290, risk=0.5, stage=4)

    assert decision(make_state(), [costly, option("BP013", flops_per_sample=1)]).chosen.blueprint_id == "BP009"


def test_the_decision_says_what_it_weighed(make_state):
    past = option("BP009", kept=21, culled=3, delta=-0.112, stderr=0.01, parameters=170, flops_per_sample=20480)
    told = decision(make_state(), [past]).reason

    assert "site blocks.0 has the strongest evidence (1.00) and BP009 fits its image shape" in told
    assert "for 170 parameters and 20,480 FLOPs a sample (merit 1.00, risk 0.30, safe tier, stage 1" in told
    assert "21 of 24 earlier lives at image sites were kept, loss change -0.112 ± 0.010)" in told
    assert "no earlier life at image sites is known" in decision(make_state(), [option("BP009")]).reason
    assert "too few to count" in decision(make_state(), [option("BP009", kept=3)]).reason


LIVES = st.integers(0, 300)


@given(st.data())
def test_merit_is_bounded_grows_with_lives_kept_and_keeps_ties_below_one_step(data):
    names = data.draw(st.lists(st.sampled_from([f"BP{n:03}" for n in range(1, 51)]), min_size=1, unique=True))
    kind = data.draw(st.sampled_from(["image", "vector", "token"]))
    options = [option(name, kept=data.draw(LIVES), culled=data.draw(LIVES)) for name in names]
    found = merits(SiteDescription(shape_kind=kind, options=options))

    assert set(found) == set(names)
    for each in options:
        merit = found[each.blueprint_id]
        kept, culled = each.outcomes.fossilized, each.outcomes.culled
        better = option(each.blueprint_id, kept=kept + culled, culled=0)
        assert 0.0 <= merit.merit <= 1.0
        assert merit.merit - SETTINGS.step < merit.score <= merit.merit
        assert merit_of(better, kind) >= merit.merit
        assert f"merit {merit.merit:.2f}" in why(merit, kind)
    for one in found.values():
        for other in found.values():
            assert one.score > other.score or one.merit <= other.merit
