"""The one writer of learning rates (R-TOL-13 to R-TOL-16).

A group's rate is base x schedule(step) x warm-up(age of the group). A rate that other code writes is found at the next
step, because every step first compares what the optimiser holds with what was written there.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import LearningRateChanged
from esper.errors import InvalidInput
from esper.record.fold import NEW_PARAMETERS

MIN_RATE: Final = 1e-6
HISTORY: Final = 1_000
UNDONE: Final = "outside write undone"
TOLERANCE: Final = 1e-6
"""Relative: two rates nearer than this are the same rate."""

WARMUP_START: Final = 0.1

Schedule = Callable[[int], float]
"""Optimiser steps taken to a factor of the base rate."""


def schedule(policy: str, *, total_steps: int, warmup_steps: int, decay_share: float) -> Schedule:
    """The factor of the base rate at each step.

    `constant` is 1. `cosine` falls from 1 to 0 at `total_steps` and stays there, where MIN_RATE is the floor, and is
    multiplied by the next where there is a warm-up. `warmup` rises linearly from a tenth to 1 over `warmup_steps` and
    stays there. `wsd` (warm-up, stable, decay) does the same until `decay_share` of the steps, and falls linearly from
    there to 0 at `total_steps`. Source of wsd: Hu et al., "MiniCPM", 2024 (arXiv 2404.06395). Raises
    InvalidInput for another policy.
    """
    if policy == "constant":
        return lambda _step: 1.0
    if policy == "cosine":
        return lambda step: (
            0.5 * (1.0 + math.cos(math.pi * min(step / total_steps, 1.0))) * rising(step, warmup_steps, WARMUP_START)
        )
    if policy == "warmup":
        return lambda step: rising(step, warmup_steps, WARMUP_START)
    if policy == "wsd":
        decay = decay_step(total_steps, decay_share)
        left = max(total_steps - decay, 1)
        return lambda step: rising(step, warmup_steps, WARMUP_START) * min(1.0, max(0.0, (total_steps - step) / left))
    raise InvalidInput(f"learning rate policy {policy!r} is unknown; choose constant, cosine, warmup or wsd")


def warmup_steps(policy: str, warmup_epochs: float, steps_per_epoch: int, *, structured: bool) -> int:
    """Steps of warm-up for `schedule`: under cosine only for a net that has a grown structure from its first step.

    Modules that a grown run lets warm up one by one are all new there. Without it such a net was no fair comparison:
    two attention blocks on `chars` came to a loss of 1.90, with it to 1.68 (docs/log.md).
    """
    return round(warmup_epochs * steps_per_epoch) if structured or policy != "cosine" else 0


def decay_step(total_steps: int, decay_share: float) -> int:
    """The last step that wsd takes at the whole rate."""
    return round(decay_share * total_steps)


def decay_from_epoch(policy: str, *, epochs: int, steps_per_epoch: int, decay_share: float) -> int:
    """The first epoch (the run's first is 1) in which the rate falls for good; 0 where it does from the start or never.

    What is inserted at the end of the epoch before has the decay alone to learn in.
    """
    total = epochs * steps_per_epoch
    first_lower = decay_step(total, decay_share) + 1
    if policy != "wsd" or not 1 < first_lower < total:
        return 0
    return first_lower // steps_per_epoch + 1


def rising(age: int, steps: int, start: float) -> float:
    """`start` at age 0, 1 from `steps` on, and a straight line between."""
    return 1.0 if age >= steps else start + (1.0 - start) * age / steps


class LearningRates:
    """Rates of the groups `host`, `s1`, `s2`, ...; every optimiser group carries its name under the key `name`.

    `history` keeps the newest 1,000 writes as (step, group, rate).
    """

    def __init__(
        self,
        policy: str,
        *,
        base_rate: float,
        total_steps: int,
        warmup_steps: int,
        decay_share: float,
        new_parameter_rate: float,
        new_parameter_warmup_steps: int,
    ) -> None:
        self.policy = policy
        self.history: deque[tuple[int, str, float]] = deque(maxlen=HISTORY)
        self._base_rate = base_rate
        self._schedule = schedule(policy, total_steps=total_steps, warmup_steps=warmup_steps, decay_share=decay_share)
        self._new_start = new_parameter_rate
        self._new_steps = new_parameter_warmup_steps
        self._told = 1.0
        self._base: dict[str, float] = {"host": base_rate}
        self._born: dict[str, int] = {}
        self._written: dict[str, float] = {}

    def add(self, group: str, factor: float, step: int) -> list[LearningRateChanged]:
        """Take on the rate of a group of new parameters, `factor` times the first base rate, warming up from `step`."""
        self._base[group] = factor * self._base_rate
        self._born[group] = step
        self._written.pop(group, None)
        return [self._change(group, 0.0, self.rate(group, step), NEW_PARAMETERS)]

    def remove(self, group: str) -> None:
        """Forget a group that the optimiser no longer holds."""
        for table in (self._base, self._born, self._written):
            table.pop(group, None)

    def rate(self, group: str, step: int) -> float:
        """The rate of a group at this step."""
        factor = self._schedule(step)
        if group in self._born:
            factor *= rising(step - self._born[group], self._new_steps, self._new_start)
        return max(self._base[group] * factor, MIN_RATE)

    def scale(self, factor: float, reason: str, step: int) -> list[LearningRateChanged]:
        """Multiply the rate of every group, now and for the rest of the run; new groups are not spared."""
        self._base_rate *= factor
        return [self.set_base(group, self._base[group] * factor, reason, step) for group in list(self._base)]

    def untold(self, group: str, step: int) -> float:
        """The rate that a group would have at this step had nobody told anything."""
        return self.rate(group, step) / self._told

    def tell(self, share: float, reason: str, step: int) -> list[LearningRateChanged]:
        """Let every rate be `share` of what it would be had nobody told anything; said twice it does no more."""
        before, self._told = self._told, share
        return self.scale(share / before, reason, step) if share != before else []

    def set_base(self, group: str, base: float, reason: str, step: int) -> LearningRateChanged:
        """Give one group another base rate; raises InvalidInput for a group that does not exist or a rate below 0."""
        if group not in self._base or not base > 0 or not math.isfinite(base):
            raise InvalidInput(f"no learning rate {base} for group {group!r}; the groups are {', '.join(self._base)}")
        old = self.rate(group, step)
        self._base[group] = base
        return self._change(group, old, self.rate(group, step), reason)

    def limit(self, group: str, share: float, reason: str, step: int) -> list[LearningRateChanged]:
        """Lower one group's base rate to `share` of the first one; no change where it is not above that."""
        base = share * self._base_rate
        return [self.set_base(group, base, reason, step)] if self._base[group] > base else []

    @property
    def steady(self) -> bool:
        """Never: each step's rate is looked at, as it may have been written from outside."""
        return False

    def begin_step(self, groups: Iterable[dict[str, Any]], step: int) -> list[LearningRateChanged]:
        """Write the rates of this step into the optimiser's groups; returns the outside writes that this undoes."""
        undone: list[LearningRateChanged] = []
        for group in groups:
            name = group["name"]
            rate = self.rate(name, step)
            written = self._written.get(name)
            if written is not None:
                if group["lr"] != written and not _same(group["lr"], written):
                    undone.append(self._change(name, group["lr"], rate, UNDONE))
                elif written == rate:
                    continue
            group["lr"] = rate
            self._written[name] = rate
            self.history.append((step, name, rate))
        return undone

    def end_step(self) -> None:
        """Nothing: a rate stays what was written until the next step."""

    def state(self) -> dict[str, Any]:
        """Everything that decides the rates from now on."""
        return {
            "first": self._base_rate,
            "base": dict(self._base),
            "born": dict(self._born),
            "written": dict(self._written),
        } | ({"told": self._told} if self._told != 1.0 else {})

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._base_rate = state["first"]
        self._base, self._born = dict(state["base"]), dict(state["born"])
        self._written = dict(state["written"])
        self._told = state.get("told", 1.0)

    def _change(self, group: str, old: float, new: float, reason: str) -> LearningRateChanged:
        return LearningRateChanged(group=group, old_lr=old, new_lr=new, policy=self.policy, reason=reason)


def _same(left: float, right: float) -> bool:
    return abs(left - right) <= max(1e-12, TOLERANCE * abs(right))
