"""What PPO learns from: the advantage of every recorded decision, simulated where its actions were, else by GAE."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from esper.simic.choice import Choice
from esper.simic.experience import Experience
from esper.simic.judging import judge
from esper.simic.returns import compute_gae, v_trace
from esper.tamiyo.network import TamiyoNet

ON_POLICY: Final = 1e-6
"""Log-probabilities nearer than this to those recorded are of the same policy: GAE needs no correction."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one decision: the probabilities then, its advantage and value target, and the weight of an older policy's."""

    log_probability: float
    advantage: float
    target: float
    value: float
    correction: float
    reference: Tensor


def estimates(
    network: TamiyoNet,
    items: Sequence[Experience],
    *,
    rows_at_once: int = 32,
    discount: float = 1.0,
    smoothing: float = 1.0,
    reference: TamiyoNet | None = None,
) -> dict[bytes, Estimate]:
    """Of every decision, by its id, under the network as it is now.

    Where a decision's actions were simulated, its advantage is what the action taken came to above their mean under the
    policy (arXiv 2410.01679 does so for language). Elsewhere it is GAE's, over the decisions of its run, or V-trace's
    where an older policy took them. Whatever an older policy took counts by the ratio of the two policies'
    probabilities, 1 at most (ruling 17); PPO's own ratio then begins at 1.
    """
    found: dict[bytes, Estimate] = {}
    with torch.no_grad():
        for first in range(0, len(items), rows_at_once):
            part = items[first : first + rows_at_once]
            seen = judge(network, part)
            held = judge(reference, part).judged.choice.log_probabilities if reference is not None else None
            likely = seen.judged.choice.log_probability(torch.tensor([each.action for each in part]))
            for row, each in enumerate(part):
                value = float(seen.judged.values[row])
                advantage, target = _simulated(each, seen.judged.choice.probabilities[row], value)
                found[each.provenance.decision_id] = Estimate(
                    float(likely[row]),
                    advantage,
                    target,
                    value,
                    min(1.0, math.exp(float(likely[row]) - each.log_probability)),
                    torch.empty(0) if held is None else held[row],
                )
    for run in _runs(items):
        if run[-1].ended and not any(_known(each) for each in run):
            found |= _of_run(run, found, discount, smoothing)
    return found


def _of_run(
    run: Sequence[Experience], found: Mapping[bytes, Estimate], discount: float, smoothing: float
) -> dict[bytes, Estimate]:
    """The estimates of a whole run's decisions, from what the run came to."""
    old = [found[each.provenance.decision_id] for each in run]
    values = torch.tensor([each.value for each in old])
    ended = torch.tensor([float(each.ended) for each in run])
    rewards = torch.tensor([each.reward for each in run])
    log_ratios = torch.tensor([new.log_probability - each.log_probability for new, each in zip(old, run, strict=True)])
    after = torch.zeros(())
    if float(log_ratios.abs().max()) < ON_POLICY:
        gae = compute_gae(rewards, values, ended, after, discount=discount, smoothing=smoothing)
        advantages, targets = gae.advantages, gae.targets
    else:
        trace = v_trace(log_ratios, rewards, values, ended, after, discount=discount)
        advantages, targets = trace.advantages, trace.targets
    return {
        each.provenance.decision_id: replace(
            estimate,
            advantage=float(advantages[row]),
            target=float(targets[row]),
            correction=1.0,  # V-trace's advantages have it in them
        )
        for row, (each, estimate) in enumerate(zip(run, old, strict=True))
    }


def _known(experience: Experience) -> bool:
    return experience.utilities is not None and bool(experience.utilities[experience.action].isfinite())


def _simulated(experience: Experience, probabilities: Tensor, value: float) -> tuple[float, float]:
    """Advantage and value target from simulated actions; 0 and the value itself where there are none."""
    if not _known(experience) or experience.utilities is None:
        return 0.0, value
    known = experience.utilities.isfinite()
    chances = probabilities[: len(known)] * known
    mean = float((chances * experience.utilities.nan_to_num()).sum() / chances.sum().clamp(min=1e-12))
    return float(experience.utilities[experience.action]) - mean, mean


def _runs(items: Sequence[Experience]) -> list[list[Experience]]:
    """The decisions of each run, in their order."""
    runs: dict[str, list[Experience]] = {}
    for each in items:
        runs.setdefault(each.provenance.run_id, []).append(each)
    return [sorted(run, key=lambda each: each.provenance.epoch) for run in runs.values()]


def reference_choice(found: Sequence[Estimate]) -> Choice:
    """The reference distributions of some decisions (rows), as wide as the widest."""
    width = max(len(each.reference) for each in found)
    rows = [functional.pad(each.reference, (0, width - len(each.reference)), value=-math.inf) for each in found]
    return Choice(torch.stack(rows))
