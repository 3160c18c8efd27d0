"""The policy that never grows anything: what a control run uses."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.leyline.v1.event_pb2 import EpochCompleted
from esper.tamiyo.actions import Action
from esper.tamiyo.policy import Advice, Policy


def advise(_state: EpochCompleted, actions: Sequence[Action], _mask: Sequence[bool]) -> Advice:
    """Nothing is better than anything."""
    logits = [0.0 if action.kind == "nothing" else -1.0 for action in actions]
    return Advice(logits, ["this policy never acts"] * len(actions))


NONE = Policy("none", "1", greedy=True, advise=advise)
