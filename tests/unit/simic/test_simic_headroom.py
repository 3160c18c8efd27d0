"""Rollouts are exact, a measurement goes on where it was stopped, and noise alone makes no headroom."""

from __future__ import annotations

import json

import numpy as np
import pytest

from esper.cli.app import dispatch
from esper.errors import CorruptState, InvalidInput
from esper.leyline.objects import ObjectStore
from esper.simic import headroom_table as told
from esper.simic.headroom import Headroom, Plan
from esper.simic.ledger import Key, Ledger
from esper.simic.rollouts import Rollouts
from esper.simic.states import NOTHING, choose_actions, choose_states
from esper.simic.utility import Ending, published_reward, utility
from esper.testing import REAL_CLOCK
from esper.tolaria.config import RunConfig
from esper.tolaria.tasks import load_task

TASK = """
import torch
from torch import nn
from esper.tolaria.tasks import Samples, Site, Task

def small():
    inputs = torch.randn(120, 4, generator=torch.Generator().manual_seed(3))
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    train, probe, test = (Samples(inputs[a:b], targets[a:b]) for a, b in ((0, 48), (48, 84), (84, 120)))
    host = lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    sites = (Site("1", "vector"), Site("3", "vector"))
    return Task("small", host, sites, train, probe, test, epochs=8, batch_size=16, learning_rate=0.01)
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("task") / "small.py"
    path.write_text(TASK)
    return f"{path}:small"


@pytest.fixture(scope="module")
def rollouts(task, tmp_path_factory):
    return Rollouts(load_task(task), ObjectStore(tmp_path_factory.mktemp("objects")), REAL_CLOCK)


@pytest.fixture(scope="module")
def lived(rollouts, task):
    lived = rollouts.live(RunConfig(task=task, seed=4), "parent")
    assert any(each.chosen != NOTHING for each in lived.decisions)
    return lived


def test_the_action_that_was_taken_comes_to_the_runs_own_end(rollouts, lived):
    for decided in (lived.decisions[2], next(each for each in lived.decisions if each.chosen != NOTHING)):
        ending, digest = rollouts.roll_out(lived, decided, decided.chosen, 0, "fork")

        assert (ending, digest) == (lived.ending, lived.digest)


def test_another_order_of_data_and_another_action_come_to_another_end(rollouts, lived):
    decided = next(each for each in lived.decisions if each.chosen != NOTHING)
    ends = {
        (action, order): rollouts.roll_out(lived, decided, action, order, "fork")[1]
        for action in (decided.chosen, NOTHING)
        for order in (0, 1, 2)
    }

    assert len(set(ends.values())) == 6
    again = rollouts.roll_out(lived, decided, decided.chosen, 2, "fork")[1]
    assert again == ends[decided.chosen, 2]


def test_states_and_actions_depend_on_the_place_alone(lived):
    states = choose_states(lived.decisions, 4, "small 4")
    assert states == choose_states(lived.decisions, 4, "small 4")
    assert len(states) == 4
    assert any(each.chosen != NOTHING for each in states)
    assert all(len(each.legal) > 1 for each in states)

    for state in states:
        tried = choose_actions(state, 6, "small 4")
        names = [each.action for each in tried]
        assert tried == choose_actions(state, 6, "small 4")
        rates = {"adjust x0.5", "adjust x2"}  # which the heuristic cannot take, and the trainer can
        assert {NOTHING, state.chosen} <= set(names) <= set(state.legal) | rates
        assert len(set(names)) == len(names) == min(6, len(state.legal) + 2)
        assert 0 < sum(each.drawn for each in tried) < len(tried)


def plan(task: str) -> Plan:
    return Plan(tasks=(task,), states=1, states_a_run=1, actions=2, first_seed=4)


def figures(ledger: Ledger) -> dict[Key, float]:
    return {key: row["loss"] for key, row in ledger.rows.items() if key.kind == "rollout"}


def test_a_measurement_goes_on_where_it_was_stopped(task, tmp_path):
    whole = Headroom(plan(task), tmp_path / "whole", REAL_CLOCK)
    assert whole.work()
    asked = iter([False, False, True])
    first = Headroom(plan(task), tmp_path / "parts", REAL_CLOCK, stop=lambda: next(asked))
    assert not first.work()
    with (tmp_path / "parts" / "rows.jsonl").open("a") as file:
        file.write('{"kind": "rollout", "cut o')  # it died while it wrote
    done = figures(first.ledger)
    second = Headroom(plan(task), tmp_path / "parts", REAL_CLOCK)

    assert second.work()
    lines = second.ledger.path.read_text().splitlines()
    assert [line for line in lines if '"kind"' in line and not line.endswith("}")] == ['{"kind": "rollout", "cut o']
    assert 0 < len(done) < len(figures(whole.ledger))
    assert second.progress.trained == len(figures(whole.ledger)) - len(done)
    assert figures(Ledger(second.ledger.path, second.plan.what())) == figures(whole.ledger)
    assert (whole.progress.done, whole.progress.total) == (4, 4)
    assert Headroom(plan(task), tmp_path / "whole", REAL_CLOCK).estimate_s() == 0
    table = told.table_of(whole.ledger)
    assert table is not None
    assert (table.states, table.runs, table.rollouts) == (1, 1, 4)


def test_rows_are_of_one_kind_of_settings_the_newest_where_none_is_named(tmp_path):
    first = Ledger(tmp_path / "rows.jsonl", "one")
    first.append(Key("run", "tab", 1), {"loss": 1.0})
    Ledger(first.path, "two").append(Key("run", "tab", 2), {"loss": 2.0})

    assert [row["loss"] for row in Ledger(first.path, "one").of("run")] == [1.0]
    assert [row["loss"] for row in Ledger(first.path).of("run")] == [2.0]
    assert Ledger(tmp_path / "none.jsonl").rows == {}


def test_rows_of_another_run_are_not_gone_on_with(task, tmp_path):
    asked = iter([False, False, True])
    first = Headroom(plan(task), tmp_path, REAL_CLOCK, stop=lambda: next(asked))
    first.work()
    (state,) = first.ledger.of("state")
    first.ledger.append(Key("state", state["task"], state["seed"], state["epoch"]), {**state, "what": "another"})

    with pytest.raises(CorruptState, match="is not the run at epoch"):
        Headroom(plan(task), tmp_path, REAL_CLOCK).work()


def forks(gain: float, tasks: int = 3, seeds: int = 8) -> list[told.Fork]:
    """States of which one action is better by `gain` deviations of the noise than the eleven others."""
    drawn = np.random.default_rng(1)
    found = []
    for task in range(tasks):
        for seed in range(seeds):
            for epoch in range(4):
                noise = drawn.normal(size=(12, 3))
                noise[7] += gain
                names = [NOTHING, *(f"a{number}" for number in range(11))]
                found.append(told.Fork(str(task), seed, epoch, names, 0.1 * noise, 1, range(2, 12)))
    return found


def test_noise_alone_has_a_maximum_and_no_headroom():
    made = forks(0.0)
    noise = told.noise_of(made)
    best, most = (told.gain_of(made, noise, arm) for arm in (told.BEST, told.MAXIMUM))

    assert all(value == pytest.approx(0.1, rel=0.05) for value in noise.values())
    assert best.low < 0 < best.high
    assert abs(best.mean) < 0.25
    assert most.mean > 1.4  # the maximum of twelve draws, which is what choosing and scoring on one order would give


def test_what_is_there_to_win_is_found():
    made = forks(4.0)
    best = told.gain_of(made, told.noise_of(made), told.BEST)

    assert best.mean == pytest.approx(4.0, abs=0.35)
    assert best.low < best.mean < best.high
    assert told.gain_of(made, told.noise_of(made), told.RANDOM).mean == pytest.approx(0.2, abs=0.2)


def test_an_interval_is_over_runs_and_not_over_states():
    """The same four states a run, told four times each, know no more."""
    made = forks(1.0, tasks=1)
    often = [fork for fork in made for _ in range(4)]
    once, again = (told.gain_of(each, told.noise_of(each), told.BEST) for each in (made, often))

    assert (once.low, once.high) == pytest.approx((again.low, again.high))
    assert np.isnan(told.gain_of(made[:4], told.noise_of(made), told.BEST).low)


def test_utility_is_the_loss_and_the_price_of_flops():
    ending = Ending(loss=0.5, accuracy=0.8, training_flops=3e6, flops=4e6, params=10)

    assert utility(ending, 2e6, price=0.1) == pytest.approx(-0.65)
    assert utility(ending, 2e6, price=0.0) == -0.5


@pytest.mark.requirement("R-SIM-15")
@pytest.mark.parametrize(
    ("given", "reward"),
    [
        ({"succeeded": True, "accuracy_change": 0.05, "resource": 0.5, "stabilities": [0.8, 1.0]}, 15.3),
        ({"accuracy_change": 0.0, "resource": 0.0, "stabilities": [0.5]}, 4.5),
        ({"accuracy_change": -0.1, "resource": 1.0, "stabilities": [1.0], "failures": 1}, -2.7),
        ({"accuracy_change": 0.0, "resource": 1.0, "stabilities": [], "failures": 2, "seconds": 12.5}, -11.2),
    ],
    ids=["success", "neutral", "regression", "aborted"],
)
def test_the_published_reward(given, reward):
    defaults = {"succeeded": False, "failures": 0, "seconds": 1.0}
    assert published_reward(**(defaults | given)) == pytest.approx(reward)


def test_the_command_measures_and_prints_the_table(task, tmp_path, capsys):
    asked = [
        "learn",
        "headroom",
        "--out",
        str(tmp_path),
        "--tasks",
        task,
        "--states",
        "1",
        "--actions",
        "2",
        "--seed",
        "4",
    ]
    assert dispatch([*asked, "--minutes", "0"]) == 1
    out = capsys.readouterr()
    assert "0 of at most 4 rollouts are there" in out.out
    assert "the rest takes about" in out.out
    assert "no state has all its rollouts yet" in out.err
    assert dispatch(asked) == 0
    text = capsys.readouterr().out
    assert dispatch([*asked, "--table", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)

    assert "1 states of 1 runs, 4 rollouts" in text
    assert "best of fork" in text
    assert "headroom" in text.splitlines()[-1]
    assert made["complete"]
    assert made["table"]["rollouts"] == 4
    assert set(made["table"]["gain_over_heuristic_sd"]["all"]) == set(told.ARMS)


@pytest.mark.parametrize(
    ("asked", "told_"),
    [
        (["--tasks", "tab,,spirals"], "has an empty name"),
        (["--tasks", "nowhere"], "task 'nowhere' is unknown"),
        (["--orders", "1"], "--orders"),
    ],
)
def test_what_cannot_be_measured_is_told(asked, told_, tmp_path, capsys):
    assert dispatch(["learn", "headroom", "--out", str(tmp_path), *asked]) == 2
    assert told_ in capsys.readouterr().err


def test_a_plan_needs_two_orders(task):
    with pytest.raises(InvalidInput, match="orders 1 is too few; 2 at least"):
        Plan(tasks=(task,), orders=1)
