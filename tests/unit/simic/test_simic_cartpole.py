"""Simic's own PPO on CartPole: no worse than what CleanRL publishes for as many steps (soak)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from esper.simic.choice import Choice
from esper.simic.learning_rate import LearningRateController
from esper.simic.ppo import Batch, Judged, PPOSettings, Stepper, update
from esper.simic.returns import compute_gae

PUBLISHED, PUBLISHED_SPREAD = 492.40, 13.05
"""CleanRL's `ppo.py` on CartPole-v1: mean and standard deviation of the return of three runs of 500,000 steps, from its
documentation ("Experiment results" of PPO)."""
STEPS, RUNS, LENGTH = 500_000, 4, 128
SETTINGS = PPOSettings(minibatch=RUNS * LENGTH // 4, target_kl=0.0, clip_value=True)
"""CleanRL's defaults: 2.5e-4 falling to 0, four epochs of four minibatches, no early stop."""


def layer(inputs: int, outputs: int, gain: float = math.sqrt(2)) -> nn.Linear:
    made = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(made.weight, gain)
    nn.init.zeros_(made.bias)
    return made


def trunk(outputs: int, gain: float) -> nn.Sequential:
    return nn.Sequential(layer(4, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, outputs, gain))


def train(gymnasium, seed: int, steps: int) -> list[float]:
    """Returns of all episodes, in their order."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    actor, critic = trunk(2, 0.01), trunk(1, 1.0)
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2.5e-4, eps=1e-5)
    updates = steps // (RUNS * LENGTH)
    rates = LearningRateController(
        optimizer, rate=2.5e-4, total_steps=updates * 16, policy="wsd", decay_share=0.0, monotonic=lambda: 0.0
    )
    stepper = Stepper(parameters, rates, max_gradient_norm=SETTINGS.max_gradient_norm)
    games = [gymnasium.make("CartPole-v1") for _ in range(RUNS)]
    states = torch.stack([torch.from_numpy(game.reset(seed=seed * RUNS + i)[0]) for i, game in enumerate(games)])
    scores, running = list[float](), [0.0] * RUNS
    for _ in range(updates):
        seen, acted, likely, valued = [], [], [], []
        rewards, ended = torch.ones(LENGTH, RUNS), torch.zeros(LENGTH, RUNS)
        for t in range(LENGTH):
            with torch.no_grad():
                choice = Choice(actor(states))
                actions = choice.sample(generator)
                seen.append(states)
                acted.append(actions)
                likely.append(choice.log_probability(actions))
                valued.append(critic(states).squeeze(-1))
            following = []
            for index, (game, action) in enumerate(zip(games, actions.tolist(), strict=True)):
                state, reward, terminated, truncated, _ = game.step(action)
                running[index] += float(reward)
                if terminated or truncated:
                    ended[t, index] = 1.0
                    scores.append(running[index])
                    running[index] = 0.0
                    state, _ = game.reset()
                following.append(torch.from_numpy(state))
            states = torch.stack(following)
        with torch.no_grad():
            last = critic(states).squeeze(-1)
        values = torch.stack(valued)
        estimates = compute_gae(rewards, values, ended, last)
        rows = torch.cat(seen)
        batch = Batch(
            torch.cat(acted),
            torch.cat(likely),
            estimates.advantages.flatten(),
            estimates.targets.flatten(),
            values.flatten(),
            torch.ones(RUNS * LENGTH),
        )

        def judge(index: torch.Tensor, rows: torch.Tensor = rows) -> Judged:
            return Judged(Choice(actor(rows[index])), critic(rows[index]).squeeze(-1))

        update(judge, batch, stepper, SETTINGS, generator)
    return scores


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ppo_reaches_what_cleanrl_publishes_on_cartpole_in_as_many_steps():
    gymnasium = pytest.importorskip("gymnasium")

    reached = [sum(scores[-100:]) / 100 for scores in (train(gymnasium, seed, STEPS) for seed in range(5))]

    mean = sum(reached) / len(reached)
    assert mean >= PUBLISHED - PUBLISHED_SPREAD, f"returns of the last 100 episodes: {reached}"
