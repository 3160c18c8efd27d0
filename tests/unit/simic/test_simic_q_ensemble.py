"""The ensemble finds what forks say, leaves the heuristic alone where they say nothing, and is a policy like others."""

from __future__ import annotations

import numpy as np
import pytest

from esper.errors import CorruptState, InvalidInput
from esper.leyline.objects import ObjectStore
from esper.simic.q_ensemble import COLUMNS, ForkedState, Settings, fit, read, rows_of
from esper.simic.rollouts import Rollouts
from esper.tamiyo.actions import legal_actions
from esper.tamiyo.decide import decide, rederived
from esper.tamiyo.policies.heuristic import HEURISTIC
from esper.testing import REAL_CLOCK
from esper.tolaria.config import RunConfig
from tests.unit.retrace.lives import tiny

QUICK = Settings(members=4, steps=120)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four short runs, and of each the observations of its first epochs."""
    rollouts = Rollouts(tiny(epochs=4), ObjectStore(tmp_path_factory.mktemp("objects")), REAL_CLOCK)
    lived = [rollouts.live(RunConfig(task="tiny", seed=seed), "run") for seed in range(4)]
    return {str(seed): each.decisions[:3] for seed, each in enumerate(lived)}


def told(runs, worth, noise=0.01):
    """Forks in which every legal action of a state came to `worth(action)`."""
    return [
        ForkedState(run, each.observation, {action: worth(action) for action in each.legal}, noise)
        for run, decisions in runs.items()
        for each in decisions
    ]


def test_rows_have_a_figure_for_every_column(runs):
    actions, _ = legal_actions(runs["0"][0].observation)
    rows = rows_of(runs["0"][0].observation, actions)

    assert rows.shape == (len(actions), len(COLUMNS))
    assert np.isfinite(rows).all()
    assert not np.array_equal(rows[1], rows[2])


def test_what_the_forks_say_is_taken_in_a_run_that_was_not_among_them(runs):
    def worth(action: str) -> float:
        return 0.15 if action.endswith("BP013") else -0.02 * (action != "nothing")

    ensemble = fit(told({run: runs[run] for run in "012"}, worth), Settings(members=4))
    seen = runs["3"][0].observation.SerializeToString(deterministic=True)
    decision = decide(seen, ensemble.policy, 0.0)

    assert str(decision.chosen).endswith("BP013")
    assert not str(decide(seen, HEURISTIC, 0.0).chosen).endswith("BP013")
    assert "forks of runs like this say" in decision.reason
    assert decision == decide(seen, ensemble.policy, 0.0)


def test_where_forks_say_nothing_the_heuristic_decides(runs):
    chance = np.random.default_rng(3)
    ensemble = fit(told(runs, lambda _action: 0.01 * chance.normal()), QUICK)
    for decisions in runs.values():
        for each in decisions:
            seen = each.observation.SerializeToString(deterministic=True)
            own = decide(seen, HEURISTIC, 0.0)
            taken = decide(seen, ensemble.policy, 0.0)

            assert (taken.chosen, taken.reason) == (own.chosen, own.reason)


def test_what_was_tried_in_few_runs_is_never_taken(runs):
    states = told(runs, lambda action: 0.1 * ("BP013" in action))
    few = [
        ForkedState(
            each.run,
            each.observation,
            {name: worth for name, worth in each.utilities.items() if each.run == "0" or "BP013" not in name},
            each.noise,
        )
        for each in states
    ]
    seen = runs["1"][1].observation.SerializeToString(deterministic=True)

    assert "BP013" in str(decide(seen, fit(states, QUICK).policy, 0.0).chosen)
    assert "BP013" not in str(decide(seen, fit(few, QUICK).policy, 0.0).chosen)


def test_the_file_is_the_ensemble(runs):
    states = told(runs, lambda action: 0.01 * len(action))
    one, other = fit(states, QUICK), fit(states, QUICK)
    again = read(one.content)

    assert one.content == other.content == again.content
    assert again.policy.digest == one.policy.digest
    assert fit(states, Settings(members=4, steps=120, seed=1)).policy.digest != one.policy.digest
    with pytest.raises(CorruptState, match="this is no ensemble"):
        read(one.content[:100])
    with pytest.raises(CorruptState, match="this is no ensemble"):
        read(b"")


def test_too_little_to_learn_from_is_told(runs):
    with pytest.raises(InvalidInput, match="two runs at least"):
        fit(told({"0": runs["0"]}, lambda _action: 0.0))
    with pytest.raises(InvalidInput, match="no forks to fit an ensemble on"):
        fit([])


def test_decisions_of_an_ensemble_do_not_pass_for_the_heuristics(runs, tmp_path):
    """Its digest is of its weights: a record of it is not derived again by another policy."""
    made = runs["0"][0].made
    wrong = type(made).FromString(made.SerializeToString())
    wrong.policy, wrong.policy_hash = "q-ensemble", b"0" * 32

    assert rederived(made, runs["0"][0].packet, ObjectStore(tmp_path)) in {"", None}
    assert rederived(wrong, runs["0"][0].packet, ObjectStore(tmp_path)) is None
