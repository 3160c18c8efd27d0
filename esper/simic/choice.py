"""The distribution over a decision's actions, of which some are forbidden; and exploring by mixing in uniform choice.

A mixture is written into the logits themselves: log((1 - share) p + share / n). Their softmax is the mixture, so a
decision's event says with what probability its action was drawn, and no second number has to be kept. (Clamping
probabilities from below instead gives the clamped actions no gradient.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from contracts.leyline.v1.event_pb2 import EpochCompleted
from esper.errors import InvalidInput
from esper.tamiyo.actions import Action
from esper.tamiyo.policy import RANDOM, Advice, Policy

FORBIDDEN: Final = float("-inf")
EXPLORES: Final = "+explore"
"""How the name of a policy ends that draws from a mixture with uniform choice."""


class Choice:
    """Masked categorical distributions, one a row: `logits` (batch, actions), `mask` true where an action is legal."""

    def __init__(self, logits: Tensor, mask: Tensor | None = None) -> None:
        if mask is not None:
            if mask.shape != logits.shape or not bool(mask.any(-1).all()):
                raise InvalidInput(
                    f"every row of logits {tuple(logits.shape)} needs a mask of its shape with a legal action, not "
                    f"{tuple(mask.shape)}"
                )
            logits = logits.masked_fill(~mask, FORBIDDEN)
        self.log_probabilities = torch.log_softmax(logits, -1)
        """(batch, actions), minus infinity where an action is forbidden."""

    @property
    def probabilities(self) -> Tensor:
        """(batch, actions); 0 where an action is forbidden."""
        return self.log_probabilities.exp()

    def log_probability(self, actions: Tensor) -> Tensor:
        """Of one action a row, `actions` (batch)."""
        return self.log_probabilities.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """In nats, (batch). What is forbidden adds nothing, and no gradient that is no number."""
        # 0 times minus infinity is no number, forwards and backwards: hence the replacement before the product.
        finite = self.log_probabilities.masked_fill(self.log_probabilities == FORBIDDEN, 0.0)
        return -(self.probabilities * finite).sum(-1)

    def divergence_from(self, other: Choice) -> Tensor:
        """The Kullback-Leibler divergence of this distribution from `other`, in nats, (batch)."""
        ours = self.log_probabilities.masked_fill(self.log_probabilities == FORBIDDEN, 0.0)
        theirs = other.log_probabilities.masked_fill(other.log_probabilities == FORBIDDEN, 0.0)
        return (self.probabilities * (ours - theirs)).sum(-1)

    def sample(self, generator: torch.Generator) -> Tensor:
        """One action a row, (batch)."""
        return torch.multinomial(self.probabilities, 1, generator=generator).squeeze(-1)


def with_exploration(logits: Sequence[float], mask: Sequence[bool], share: float) -> list[float]:
    """Logits whose softmax over the legal actions is that of `logits`, mixed with a `share` of uniform choice.

    Raises InvalidInput for a share outside [0, 1), or where nothing is legal. At 0 they are returned as they are.
    """
    legal = [index for index, open_ in enumerate(mask) if open_]
    if not 0.0 <= share < 1.0 or not legal:
        raise InvalidInput(
            f"a share of exploration must be in [0, 1), not {share}, with a legal action, not {len(legal)}"
        )
    if share == 0.0:
        return list(logits)
    largest = max(logits[index] for index in legal)
    total = math.fsum(math.exp(logits[index] - largest) for index in legal)
    mixed = list(logits)
    for index in legal:
        probability = math.exp(logits[index] - largest) / total
        mixed[index] = math.log((1.0 - share) * probability + share / len(legal))
    return mixed


def exploring(policy: Policy, share: float) -> Policy:
    """`policy` with a share of uniform choice mixed in: it draws, and its decisions say with what probability.

    A policy that takes the largest logit is drawn from the softmax of its logits, so its temperature is its own.
    """

    def advise(state: EpochCompleted, actions: Sequence[Action], mask: Sequence[bool]) -> Advice:
        advice = policy.advise(state, actions, mask)
        return replace(advice, logits=with_exploration(advice.logits, mask, share))

    return replace(
        policy,
        name=f"{policy.name}{EXPLORES}",
        greedy=False,
        advise=advise,
        settings={**policy.settings, "exploration": share},
    )


def draws(policy_name: str) -> bool:
    """Whether a policy of that name draws from its logits; the others take the largest."""
    return policy_name == RANDOM.name or policy_name.endswith(EXPLORES)


def recorded_log_probability(logits: Sequence[float], mask: Sequence[bool], action: int) -> float:
    """The log-probability with which a sampling policy took `action`, from what its decision recorded.

    Raises InvalidInput for an action that was not legal.
    """
    if not (0 <= action < len(mask) and mask[action]):
        raise InvalidInput(f"action {action} was not legal among {len(mask)}")
    legal = [logits[index] for index, open_ in enumerate(mask) if open_]
    largest = max(legal)
    return logits[action] - largest - math.log(math.fsum(math.exp(each - largest) for each in legal))
