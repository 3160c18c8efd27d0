"""Tamiyo's network over many experiences at once: the distribution over each one's legal actions, and the values.

Also what the three kinds of learning are made of: targets from simulated actions, and the loss of imitating them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from contracts.leyline.v1.leyline_pb2 import (
    FIELD_REPORT_OUTCOME_ABORTED,
    FIELD_REPORT_OUTCOME_NEUTRAL,
    FIELD_REPORT_OUTCOME_REGRESSION,
    FIELD_REPORT_OUTCOME_SUCCESS,
)
from esper.simic.choice import Choice
from esper.simic.experience import Experience, batched
from esper.simic.ppo import Judged
from esper.tamiyo import features, registries
from esper.tamiyo.network import TamiyoNet

RISK_LEVELS: Final = {
    FIELD_REPORT_OUTCOME_SUCCESS: 0,
    FIELD_REPORT_OUTCOME_NEUTRAL: 1,
    FIELD_REPORT_OUTCOME_REGRESSION: 3,
    FIELD_REPORT_OUTCOME_ABORTED: 4,
}
"""What became of a command, as the level of risk that it is taken to have had (0 green to 4 critical)."""
RISK_WEIGHT, VALUE_WEIGHT, POLICY_WEIGHT = 0.40, 0.35, 0.25
"""Of the losses of supervised learning: policy sheet 1.3."""
READOUT_WEIGHT: Final = 0.1
"""Of the loss of parameters: policy sheet 2.4."""
_ADJUST, _OPEN, _CLOSE = (registries.KINDS.index(kind) for kind in ("adjust", "breaker_open", "breaker_close"))
_SIZE: Final = features.ACTION.index("size")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a network says of some experiences (rows): as PPO takes it, and the logits of the five risk levels.

    `rate` (slots) is the change of the learning rates that it asks for, the binary logarithm of a share; `of_slot`
    (slots) is the row of each; `breaker` (rows, 2) are the logits of opening and closing the growth breaker.
    """

    judged: Judged
    risk: Tensor
    rate: Tensor
    of_slot: Tensor
    breaker: Tensor


def judge(network: TamiyoNet, experiences: Sequence[Experience]) -> Seen:
    """The network's word on each; an action is open where it was legal and no better one of its slot dominates it.

    What was taken stays open, so that its probability is never 0. Rows have as many columns as the most actions.
    """
    outputs = network(batched(experiences))
    counts = torch.bincount(outputs.graph_of_action, minlength=len(experiences)).tolist()
    choosable = outputs.choosable.clone()
    first = 0
    for experience, count in zip(experiences, counts, strict=True):
        choosable[first + experience.action] = True
        first += count
    legal = torch.cat([experience.mask for experience in experiences])
    logits = pad_sequence(list(outputs.logits.split(counts)), batch_first=True)
    mask = pad_sequence(list((legal & choosable).split(counts)), batch_first=True)
    judged = Judged(Choice(logits, mask), outputs.value)
    return Seen(judged, outputs.risk, outputs.params[:, 0], outputs.graph_of_slot, outputs.breaker)


def readouts(seen: Seen, experiences: Sequence[Experience], aims: Tensor) -> Tensor:
    """The loss of the heads that say a distribution over actions in other words; `aims` (rows, most actions) is it.

    The change of the learning rates is its mean over the actions, all others changing nothing; the breaker's two
    chances are those of opening and closing it. Where no such action is listed there is nothing to say, and it is 0.
    """
    rates, breakers, rows = [], [], []
    for row, (experience, aim) in enumerate(zip(experiences, aims, strict=True)):
        action = experience.graph["action"]
        of_rate = action.kind == _ADJUST
        if not bool(of_rate.any()):
            continue
        chances = aim[: len(action.kind)]
        rows.append(row)
        rates.append((chances * of_rate * action.x[:, _SIZE].clamp(min=1e-3).log2()).sum())
        breakers.append(torch.stack([chances[action.kind == kind].sum() for kind in (_OPEN, _CLOSE)]))
    if not rows:
        return (seen.rate.sum() + seen.breaker.sum()) * 0.0
    wanted = torch.full((len(experiences),), math.nan)
    wanted[rows] = torch.stack(rates)
    of_slot = wanted[seen.of_slot]
    known = of_slot.isfinite()
    rate = (seen.rate[known] - of_slot[known]).square().mean() if bool(known.any()) else seen.rate.sum() * 0.0
    chances = torch.stack(breakers).clamp(0.0, 1.0)
    return rate + functional.binary_cross_entropy_with_logits(seen.breaker[rows], chances)


def targets(experiences: Sequence[Experience], temperature: float) -> Tensor:
    """What to imitate, (rows, most actions): the softmax of the utilities that are known, over `temperature`.

    Where none is known it is the action that was taken. A small temperature takes the best, a large one says how much
    better it is. Utilities are in the unit of the loss.
    """
    rows = []
    for experience in experiences:
        known = experience.utilities
        if known is None or not bool(known.isfinite().any()):
            rows.append(functional.one_hot(torch.tensor(experience.action), len(experience.mask)).float())
        else:
            scores = (known / temperature).masked_fill(~(known.isfinite() & experience.mask), float("-inf"))
            rows.append(torch.softmax(scores.float(), -1))
    return pad_sequence(rows, batch_first=True)


def worth(experience: Experience) -> float:
    """What the run is expected to come to: the taken action's utility, or the best that is known, or the reward."""
    known = experience.utilities
    if known is None or not bool(known.isfinite().any()):
        return experience.reward
    taken = float(known[experience.action])
    return taken if known[experience.action].isfinite() else float(known[known.isfinite()].max())


@dataclass(frozen=True, slots=True)
class Imitation:
    """The loss of supervised learning, its parts, and for each row how far the policy is from its target (nats)."""

    total: Tensor
    policy: Tensor
    value: Tensor
    risk: Tensor
    readouts: Tensor
    errors: Tensor

    def figures(self) -> dict[str, float]:
        """As numbers, by the names that an event's metrics have."""
        parts = {"loss": self.total, "policy_loss": self.policy, "value_loss": self.value, "risk_loss": self.risk}
        parts["param_loss"] = self.readouts
        return {name: float(part.detach()) for name, part in parts.items()}


def imitation(seen: Seen, experiences: Sequence[Experience], weights: Tensor, temperature: float) -> Imitation:
    """Cross-entropy to the targets, squared error to what runs came to, cross-entropy to what became of commands.

    And `readouts` of the targets.
    """
    aims = targets(experiences, temperature)
    log_probabilities = seen.judged.choice.log_probabilities
    # A target may lie on an action that another dominates now: it has no probability to be raised, and is left out.
    open_ = log_probabilities.isfinite()
    aims = aims * open_
    aims = aims / aims.sum(-1, keepdim=True).clamp(min=1e-12)
    finite = log_probabilities.masked_fill(~open_, 0.0)
    entropy = -torch.special.xlogy(aims, aims).sum(-1)
    errors = -(aims * finite).sum(-1) - entropy
    policy = (weights * errors).mean()
    worths = torch.tensor([worth(experience) for experience in experiences])
    value = (weights * (seen.judged.values - worths) ** 2).mean()
    rows = [row for row, each in enumerate(experiences) if each.provenance.outcome in RISK_LEVELS]
    levels = torch.tensor([RISK_LEVELS[experiences[row].provenance.outcome] for row in rows], dtype=torch.long)  # type: ignore[index]
    risk = functional.cross_entropy(seen.risk[rows], levels) if rows else seen.risk.sum() * 0.0
    told = readouts(seen, experiences, aims)
    total = POLICY_WEIGHT * policy + VALUE_WEIGHT * value + RISK_WEIGHT * risk + READOUT_WEIGHT * told
    return Imitation(total, policy, value, risk, told, errors.detach())
