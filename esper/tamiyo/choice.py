"""From logits, mask and draw to one action, so that a recorded decision can be derived again from its event alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from esper.errors import ContractViolation


def pick(logits: Sequence[float], mask: Sequence[bool], draw: float, *, greedy: bool) -> int:
    """The index of the action taken.

    Greedy: the largest logit among the unmasked, the first of equals. Otherwise the inverse of the cumulative softmax
    over the unmasked at `draw`, which is uniform in [0, 1). Raises ContractViolation where nothing is unmasked, the
    lengths differ, or an unmasked logit or the draw is no finite number in range.
    """
    allowed = [index for index, open_ in enumerate(mask) if open_]
    if len(logits) != len(mask) or not allowed:
        raise ContractViolation(
            f"{len(logits)} logits and {len(allowed)} of {len(mask)} actions unmasked: nothing to pick"
        )
    if not 0.0 <= draw < 1.0 or not all(math.isfinite(logits[index]) for index in allowed):
        raise ContractViolation(f"draw {draw!r} must be in [0, 1) and the logits of all unmasked actions finite")
    if greedy:
        return max(allowed, key=lambda index: logits[index])
    largest = max(logits[index] for index in allowed)
    weights = [math.exp(logits[index] - largest) for index in allowed]
    threshold = draw * math.fsum(weights)
    reached = 0.0
    for index, weight in zip(allowed, weights, strict=True):
        reached += weight
        if threshold < reached:
            return index
    return allowed[-1]  # rounding: the sum of the weights one by one can fall short of fsum


def draw_for(policy_seed: int, timeline: int, epoch: int) -> float:
    """The uniform draw in [0, 1) of one decision, without any state: SHA-256 of the run's policy seed and its place.

    Of the place and not of the packet's id, because ids differ from run to run: the same run again must draw the same.
    """
    place = f"tamiyo.draw/{policy_seed}/{timeline}/{epoch}".encode()
    return (int.from_bytes(hashlib.sha256(place).digest()[:8], "big") >> 11) / 2**53
