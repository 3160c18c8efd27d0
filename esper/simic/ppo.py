"""Proximal policy optimisation: the loss of one minibatch, and the updates over a batch of decisions.

Source: Schulman et al., "Proximal policy optimization algorithms", 2017 (arXiv 1707.06347), equations 7 and 9; the
estimate of the divergence is Schulman's k3, mean(r - 1 - log r). Nothing here knows Tamiyo's network: whoever calls
gives a function from rows to `Judged`, so the same loss is tested on CartPole.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from esper.simic.choice import Choice
from esper.simic.learning_rate import LearningRateController


@dataclass(frozen=True, slots=True)
class PPOSettings:
    """The defaults are those of R-SIM-17 and policy sheet 2.4; `target_kl` 0 never stops early.

    `leash` weighs the divergence from a reference policy (learning.md 5c: the one that is live), where one is given.
    """

    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    target_kl: float = 0.01
    max_gradient_norm: float = 0.5
    epochs: int = 4
    minibatch: int = 32
    normalise: bool = True
    clip_value: bool = False
    leash: float = 0.0


@dataclass(frozen=True, slots=True)
class Judged:
    """What a network says about some rows: the distribution over their actions, and their values (rows)."""

    choice: Choice
    values: Tensor


Judge = Callable[[Tensor], Judged]
"""Judges the rows with these indices (rows)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Decisions to learn from, all (rows): what was done, with what log-probability, and what came of it.

    `values` are those of the network that decided, for `clip_value`; `weights` are the importance weights of a
    prioritised draw, 1 where there was none. `reference` is the distribution that the leash is tied to.
    """

    actions: Tensor
    log_probabilities: Tensor
    advantages: Tensor
    targets: Tensor
    values: Tensor
    weights: Tensor
    reference: Choice | None = None

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True, slots=True)
class Losses:
    """A minibatch's losses: `total` is what is minimised; `kl` and `clipped` (a share) are measured, not trained on."""

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    kl: Tensor
    clipped: Tensor

    def figures(self) -> dict[str, float]:
        """As numbers, by the names that an event's metrics have."""
        parts = {"loss": self.total, "policy_loss": self.policy, "value_loss": self.value, "entropy": self.entropy}
        return {name: float(part.detach()) for name, part in (parts | {"kl": self.kl, "clipped": self.clipped}).items()}


def normalised(advantages: Tensor) -> Tensor:
    """Of mean 0 and standard deviation 1; a single one is only centred."""
    spread = advantages.std() if len(advantages) > 1 else advantages.new_zeros(())
    return (advantages - advantages.mean()) / (spread + 1e-8)


def ppo_loss(judged: Judged, batch: Batch, rows: Tensor, settings: PPOSettings) -> Losses:
    """The losses of the batch's `rows`, which `judged` is about."""
    log_ratios = judged.choice.log_probability(batch.actions[rows]) - batch.log_probabilities[rows]
    ratios = log_ratios.exp()
    advantages = normalised(batch.advantages[rows]) if settings.normalise else batch.advantages[rows]
    weights = batch.weights[rows]
    limited = ratios.clamp(1.0 - settings.clip, 1.0 + settings.clip)
    policy = -(weights * torch.minimum(advantages * ratios, advantages * limited)).mean()
    value = (weights * _value_errors(judged.values, batch, rows, settings)).mean()
    entropy = judged.choice.entropy().mean()
    total = policy + settings.value_weight * value - settings.entropy_weight * entropy
    if batch.reference is not None and settings.leash:
        reference = Choice(batch.reference.log_probabilities[rows])
        total = total + settings.leash * judged.choice.divergence_from(reference).mean()
    with torch.no_grad():
        kl = ((ratios - 1.0) - log_ratios).mean()
        clipped = ((ratios - 1.0).abs() > settings.clip).float().mean()
    return Losses(total, policy, value, entropy, kl, clipped)


def _value_errors(values: Tensor, batch: Batch, rows: Tensor, settings: PPOSettings) -> Tensor:
    errors = (values - batch.targets[rows]) ** 2
    if settings.clip_value:
        before = batch.values[rows]
        near = before + (values - before).clamp(-settings.clip, settings.clip)
        errors = torch.maximum(errors, (near - batch.targets[rows]) ** 2)
    return 0.5 * errors


@dataclass(slots=True)
class Progress:
    """What an update did: steps, the last minibatch's figures, and what was left out, by its reason."""

    steps: int = 0
    stopped_early: bool = False
    figures: dict[str, float] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


class Stepper:
    """Takes optimiser steps on losses: rates by the one controller, gradients clipped, what is not finite left out."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], rates: LearningRateController, *, max_gradient_norm: float
    ) -> None:
        self._parameters = [each for each in parameters if each.requires_grad]
        self._rates = rates
        self._most = max_gradient_norm

    def step(self, loss: Tensor, progress: Progress) -> bool:
        """Whether a step was taken: not where the loss or the gradient is no finite number; that is counted.

        The norm before clipping is in the figures. Raises as `LearningRateController.begin_step` does.
        """
        optimizer = self._rates.optimizer
        optimizer.zero_grad(set_to_none=True)
        if not math.isfinite(float(loss.detach())):
            progress.skipped["loss not finite"] += 1
            return False
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._most))
        if not math.isfinite(norm):
            optimizer.zero_grad(set_to_none=True)
            progress.skipped["gradient not finite"] += 1
            return False
        self._rates.begin_step()
        optimizer.step()
        progress.steps += 1
        progress.figures["gradient_norm"] = norm
        return True


def update(judge: Judge, batch: Batch, stepper: Stepper, settings: PPOSettings, generator: torch.Generator) -> Progress:
    """Some epochs of minibatches over `batch`, drawn by `generator`; they end early where the divergence is too large.

    The divergence is that of the last minibatch of an epoch, as CleanRL and Stable-Baselines3 measure it.
    """
    progress = Progress()
    for _ in range(settings.epochs):
        losses: Losses | None = None
        for rows in torch.split(torch.randperm(len(batch), generator=generator), settings.minibatch):
            losses = ppo_loss(judge(rows), batch, rows, settings)
            stepper.step(losses.total, progress)
        if losses is not None:
            progress.figures |= losses.figures()
            if settings.target_kl and progress.figures["kl"] > settings.target_kl:
                progress.stopped_early = True
                break
    return progress
