"""The random policy: nothing with probability one half, otherwise any legal action, each as likely as the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

from contracts.leyline.v1.event_pb2 import EpochCompleted
from esper.tamiyo.actions import Action
from esper.tamiyo.policy import Advice, Policy


def advise(_state: EpochCompleted, actions: Sequence[Action], mask: Sequence[bool]) -> Advice:
    """Logits whose softmax over the unmasked actions gives those probabilities."""
    others = max(1, sum(mask) - 1)
    logits = [math.log(others) if action.kind == "nothing" else 0.0 for action in actions]
    return Advice(logits, [f"drawn at random from {sum(mask)} legal actions"] * len(actions))


RANDOM = Policy("random", "1", greedy=False, advise=advise)
