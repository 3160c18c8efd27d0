"""PPO's loss: vanilla at ratio 1, no gradient where clipped, and what an update does about what is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from esper.errors import InvalidInput
from esper.simic.choice import Choice, draws, exploring, recorded_log_probability, with_exploration
from esper.simic.learning_rate import LearningRateController
from esper.simic.ppo import Batch, Judged, PPOSettings, Progress, Stepper, ppo_loss, update
from esper.tamiyo import weights
from esper.tamiyo.decide import decide, pick
from esper.tamiyo.network import make
from esper.tamiyo.policies import learned

ROWS, ACTIONS = 12, 5
BARE = PPOSettings(value_weight=0.0, entropy_weight=0.0, normalise=False)


def batch_of(log_probabilities: torch.Tensor, actions: torch.Tensor, advantages: torch.Tensor) -> Batch:
    zeros = torch.zeros(len(actions))
    return Batch(actions, log_probabilities, advantages, zeros, zeros, torch.ones(len(actions)))


def example(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(ROWS, ACTIONS, generator=generator).requires_grad_()
    mask = torch.rand(ROWS, ACTIONS, generator=generator) < 0.7
    mask[:, 0] = True
    actions = Choice(logits.detach(), mask).sample(generator)
    return logits, mask, actions, torch.randn(ROWS, generator=generator)


@pytest.mark.requirement("R-SIM-18")
def test_ratio_1_gives_the_vanilla_policy_gradient():
    logits, mask, actions, advantages = example()
    choice = Choice(logits, mask)
    batch = batch_of(choice.log_probability(actions).detach(), actions, advantages)

    losses = ppo_loss(Judged(choice, torch.zeros(ROWS)), batch, torch.arange(ROWS), BARE)
    (found,) = torch.autograd.grad(losses.total, logits, retain_graph=True)
    (vanilla,) = torch.autograd.grad(-(advantages * choice.log_probability(actions)).mean(), logits)

    torch.testing.assert_close(found, vanilla)
    assert bool(found.abs().sum() > 0)
    assert float(losses.kl) == float(losses.clipped) == 0.0


@pytest.mark.requirement("R-SIM-18")
@pytest.mark.parametrize(("shift", "sign"), [(1.0, 1.0), (-1.0, -1.0)])
def test_clipped_rows_have_no_gradient(shift, sign):
    logits, mask, actions, advantages = example(1)
    choice = Choice(logits, mask)
    before = choice.log_probability(actions).detach() - shift  # the ratio is e or 1/e, beyond the clip
    batch = batch_of(before, actions, sign * advantages.abs())

    losses = ppo_loss(Judged(choice, torch.zeros(ROWS)), batch, torch.arange(ROWS), BARE)
    (clipped,) = torch.autograd.grad(losses.total, logits, retain_graph=True)
    other_way = ppo_loss(
        Judged(choice, torch.zeros(ROWS)), batch_of(before, actions, -sign * advantages.abs()), torch.arange(ROWS), BARE
    )
    (pulled_back,) = torch.autograd.grad(other_way.total, logits)

    assert bool((clipped == 0).all())
    assert float(losses.clipped) == 1.0
    assert bool(pulled_back.abs().sum() > 0)


@pytest.mark.requirement("R-SIM-32")
def test_forbidden_actions_have_no_probability_no_gradient_and_finite_entropy():
    logits, mask, _, _ = example(2)
    choice = Choice(logits, mask)

    (gradient,) = torch.autograd.grad(choice.entropy().sum(), logits)

    assert bool((choice.probabilities[~mask] == 0).all())
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient[~mask] == 0).all())
    torch.testing.assert_close(choice.probabilities.sum(-1), torch.ones(ROWS))
    with pytest.raises(InvalidInput, match="legal action"):
        Choice(logits, torch.zeros_like(mask))


def controller(parameter: nn.Parameter, **settings: float) -> LearningRateController:
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    return LearningRateController(optimizer, rate=0.1, total_steps=100, monotonic=lambda: 0.0, **settings)


@pytest.mark.requirement("R-SIM-19")
def test_gradients_are_clipped_and_what_is_not_finite_is_skipped_and_counted():
    weight = nn.Parameter(torch.zeros(4))
    stepper = Stepper([weight], controller(weight), max_gradient_norm=0.5)
    progress = Progress()

    assert stepper.step((100.0 * weight).sum(), progress)
    moved = weight.detach().clone()
    assert not stepper.step(weight.sum() * math.nan, progress)
    assert not stepper.step(torch.sqrt(weight * 0.0).sum(), progress)  # finite, with a gradient that is not

    assert math.isclose(float(moved.norm()), 0.1 * 0.5, rel_tol=1e-5)
    assert torch.equal(weight.detach(), moved)
    assert (progress.steps, progress.skipped["loss not finite"], progress.skipped["gradient not finite"]) == (1, 1, 1)


@pytest.mark.requirement("R-SIM-20")
def test_a_second_writer_of_the_rate_opens_the_breaker_and_no_step_is_taken():
    weight = nn.Parameter(torch.zeros(1))
    rates = controller(weight)
    stepper = Stepper([weight], rates, max_gradient_norm=0.5)
    assert stepper.step(weight.sum(), Progress())
    rates.scale(0.5, "diverged")
    assert stepper.step(weight.sum(), Progress())
    before = weight.detach().clone()

    rates.optimizer.param_groups[0]["lr"] = 3.0
    with pytest.raises(InvalidInput, match="written by other code"):
        stepper.step(weight.sum(), Progress())

    assert [change.breaker for change in rates.changes] == ["simic.learning_rate"]
    assert torch.equal(weight.detach(), before)
    assert math.isclose(rates.rate, 0.05)


@pytest.mark.requirement("R-SIM-17")
def test_an_update_ends_early_where_the_policy_moved_too_far():
    logits = nn.Parameter(torch.zeros(ROWS, ACTIONS))
    actions = torch.zeros(ROWS, dtype=torch.long)
    start = torch.full((ROWS,), -math.log(ACTIONS))
    batch = batch_of(start, actions, torch.ones(ROWS))
    rates = LearningRateController(
        torch.optim.SGD([logits], lr=1.0), rate=500.0, total_steps=100, monotonic=lambda: 0.0
    )
    stepper = Stepper([logits], rates, max_gradient_norm=0.5)

    def judge(rows: torch.Tensor) -> Judged:
        return Judged(Choice(logits[rows]), torch.zeros(len(rows)))

    eager = update(judge, batch, stepper, PPOSettings(epochs=10, normalise=False), torch.Generator().manual_seed(0))
    patient = update(judge, batch, stepper, PPOSettings(epochs=3, target_kl=0.0), torch.Generator().manual_seed(0))

    assert eager.stopped_early
    assert eager.steps < 10
    assert eager.figures["kl"] > 0.01
    assert not patient.stopped_early


@pytest.mark.requirement("R-SIM-17")
def test_exploration_is_a_mixture_whose_probability_is_in_the_logits():
    logits, mask = [2.0, 0.0, -1.0, 5.0], [True, True, True, False]

    mixed = with_exploration(logits, mask, 0.2)

    softmax = Choice(torch.tensor([logits]), torch.tensor([mask])).probabilities[0]
    for action in range(3):
        expected = 0.8 * float(softmax[action]) + 0.2 / 3
        assert math.isclose(math.exp(recorded_log_probability(mixed, mask, action)), expected, rel_tol=1e-6)
    assert with_exploration(logits, mask, 0.0) == logits
    # Tamiyo draws from the same logits: of a thousand even draws each action gets its share.
    drawn = [pick(mixed, mask, index / 1000, greedy=False) for index in range(1000)]
    for action in range(3):
        assert abs(drawn.count(action) / 1000 - math.exp(recorded_log_probability(mixed, mask, action))) < 2e-3
    with pytest.raises(InvalidInput, match="not legal"):
        recorded_log_probability(mixed, mask, 3)
    with pytest.raises(InvalidInput, match="share of exploration"):
        with_exploration(logits, mask, 1.0)


@pytest.mark.requirement("R-SIM-17")
def test_a_policy_that_explores_takes_every_legal_action_and_says_how_likely_that_was(observations):
    policy = exploring(learned.policy(weights.save(make(seed=3), "1.0.0")), 0.3)

    decisions = [decide(observations[0], policy, index / 400) for index in range(400)]
    legal = [index for index, open_ in enumerate(decisions[0].mask) if open_]
    taken = [decision.action for decision in decisions]

    assert sorted(set(taken)) == legal
    assert draws(policy.name)
    assert not draws("learned")
    for action in legal:
        likely = math.exp(recorded_log_probability(decisions[0].logits, decisions[0].mask, action))
        assert likely > 0.3 / len(legal) - 1e-6
        assert abs(taken.count(action) / 400 - likely) < 0.006
