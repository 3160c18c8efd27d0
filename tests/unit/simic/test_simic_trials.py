"""What forks teach as experience, and whole runs of two policies on the same seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from esper.errors import InvalidInput
from esper.kasmina.settings import SeedSettings
from esper.leyline.objects import ObjectStore
from esper.simic.gates import GateSettings, performance, regression
from esper.simic.lessons import lessons
from esper.simic.q_ensemble import ForkedState, Settings, fit
from esper.simic.rollouts import Rollouts
from esper.simic.trainer import Trained
from esper.simic.trials import Trials, serving_of
from esper.tamiyo import weights
from esper.tamiyo.actions import EVERYTHING, legal_actions
from esper.tamiyo.network import make
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
    host = lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    return Task("small", host, (Site("1", "vector"),), train, probe, test, epochs=3, batch_size=16, learning_rate=0.01)
"""
NOT_TRAINED = Trained({}, {}, 0)


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    path = tmp_path_factory.mktemp("task") / "small.py"
    path.write_text(TASK)
    return [RunConfig(task=f"{path}:small", seed=seed, seeds=SeedSettings(lifecycle="swift")) for seed in range(5)]


@pytest.fixture(scope="module")
def states(configs, tmp_path_factory):
    """A state of each of three runs, in which the action in the middle is worth most; the last is not tried."""
    found = []
    for config in configs[:3]:
        rollouts = Rollouts(load_task(config.task), ObjectStore(tmp_path_factory.mktemp("objects")), REAL_CLOCK)
        decided = rollouts.live(config, "run").decisions[0]
        tried = decided.legal[:-1]
        worths = {name: -0.1 * abs(at - len(tried) // 2) for at, name in enumerate(tried)}
        found.append(ForkedState(str(config.seed), decided.observation, worths, 0.01))
    return found


def test_a_lesson_has_what_was_tried_and_nothing_of_what_was_not(states):
    for state, lesson in zip(states, lessons(states), strict=True):
        actions, mask = legal_actions(state.observation, EVERYTHING)
        known = {str(action): at for at, action in enumerate(actions)}

        assert lesson.mask.tolist() == mask
        assert {name: float(lesson.utilities[known[name]]) for name in state.utilities} == pytest.approx(
            state.utilities
        )
        assert int(lesson.utilities.isfinite().sum()) == len(state.utilities)
        assert str(actions[lesson.action]) == max(state.utilities, key=state.utilities.get)
    assert len({lesson.key for lesson in lessons(states)}) == len(states)


def test_an_ensembles_lesson_knows_every_legal_action_and_is_cautious(states):
    ensemble = fit(states, Settings(members=2, steps=20))
    for state, lesson in zip(states, lessons(states, ensemble), strict=True):
        known = lesson.utilities.isfinite()

        assert torch.equal(known, lesson.mask)
        assert float(lesson.utilities[lesson.action]) == pytest.approx(float(lesson.utilities[known].max()))
        assert 0.0 in lesson.utilities[known].tolist()  # the heuristic's own choice
        assert lesson.provenance.run_id == state.run


def test_the_same_policy_is_no_better_than_itself(configs):
    told: list[str] = []
    trials = Trials(configs, REAL_CLOCK, tell=told.append)
    content = weights.save(make("small", 0), "0.0.1")
    again = weights.save(make("small", 0), "0.0.2")
    evidence = trials.evaluate(again, content, NOT_TRAINED)
    gate = performance(evidence.utility, GateSettings())

    assert np.array_equal(evidence.utility.gains(), np.zeros(5))
    assert not gate.passed
    assert "not above 0" in gate.detail
    assert regression([evidence.utility, *evidence.measures], GateSettings()).passed
    assert len(told) == 3 * len(configs)  # the control, the live one and the candidate
    trials.evaluate(again, content, NOT_TRAINED)
    assert len(told) == 3 * len(configs)


def test_what_is_no_policy_is_not_served(tmp_path):
    with pytest.raises(InvalidInput, match="invalid_payload"):
        serving_of(b"no weights", ObjectStore(tmp_path))
