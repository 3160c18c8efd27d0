"""What a policy is: a name, a version, settings and the advice it gives. `none`, `random` and `explore` are here."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contracts.leyline.v1.event_pb2 import EpochCompleted
from esper.tamiyo.actions import EVERYTHING, SEEDS_ONLY, Action


@dataclass(frozen=True, slots=True)
class Advice:
    """A policy's opinion of every action: a logit each, and the sentence that explains an action if it is taken.

    `reason` makes that sentence when it is asked for one: a run has dozens of actions an epoch, and one is taken.
    `value_estimate` is the share of the probe loss that the policy expects the next epoch to take off; 0 where it has
    no opinion.
    """

    logits: list[float]
    reason: Callable[[int], str]
    value_estimate: float = 0.0
    coverage: Mapping[str, float] = field(default_factory=dict)
    """Which share of what it looks at was known, by key and family (R-TAM-7); empty where nothing can be absent."""


Advise = Callable[[EpochCompleted, Sequence[Action], Sequence[bool]], Advice]


@dataclass(frozen=True, slots=True)
class Policy:
    """A pure policy. `greedy` ones take the largest logit, the others sample with the decision's draw.

    `weights` is the SHA-256 of a learned one's, hexadecimal.
    """

    name: str
    version: str
    greedy: bool
    advise: Advise
    settings: Mapping[str, float] = field(default_factory=dict)
    weights: str = ""
    action_set: int = SEEDS_ONLY
    """What it chooses from, as far as the trainer can carry that out."""
    risk_engine: int = 1
    """The version of the risk engine that binds it; verdicts of the newest are recorded all the same."""

    @property
    def ref(self) -> str:
        """The place of a learned policy's weights in an object store; empty for the others."""
        return f"sha256:{self.weights}" if self.weights else ""

    @property
    def digest(self) -> bytes:
        """SHA-256 over name, version, settings and weights: whoever has the same digest decides the same."""
        content: dict[str, Any] = {"name": self.name, "version": self.version, "greedy": self.greedy}
        content["settings"] = dict(self.settings)
        if (self.action_set, self.risk_engine) != (SEEDS_ONLY, 1):  # the digests of those of old stay what they were
            content |= {"action_set": self.action_set, "risk_engine": self.risk_engine}
        if self.weights:
            content["weights"] = self.weights
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).digest()


def _never_act(_state: EpochCompleted, actions: Sequence[Action], _mask: Sequence[bool]) -> Advice:
    """No action is better than nothing: what a control run uses."""
    logits = [0.0 if action.kind == "nothing" else -1.0 for action in actions]
    return Advice(logits, lambda _index: "this policy never acts")


NONE = Policy("none", "1", greedy=True, advise=_never_act)


def _act_at_random(_state: EpochCompleted, actions: Sequence[Action], mask: Sequence[bool]) -> Advice:
    """Nothing with probability one half, otherwise any legal action, each as likely as the others, by the softmax."""
    others = max(1, sum(mask) - 1)
    logits = [math.log(others) if action.kind == "nothing" else 0.0 for action in actions]
    return Advice(logits, lambda _index: f"drawn at random from {sum(mask)} legal actions")


RANDOM = Policy("random", "1", greedy=False, advise=_act_at_random)


def _explore(_state: EpochCompleted, actions: Sequence[Action], mask: Sequence[bool]) -> Advice:
    """Nothing with probability one half, otherwise any kind of action, each as likely, and one of that kind."""
    counts = Counter(action.kind for action, legal in zip(actions, mask, strict=True) if legal)
    kinds = max(1, len(counts) - 1)
    logits = [
        math.log(kinds) if action.kind == "nothing" else -math.log(max(1, counts[action.kind])) for action in actions
    ]
    return Advice(logits, lambda _index: f"drawn at random from {len(counts)} kinds of legal actions")


EXPLORE = Policy("explore", "1", greedy=False, advise=_explore, action_set=EVERYTHING, risk_engine=2)
"""Every action that there is, so that history holds what becomes of each; the risk engine binds it."""
