"""The decision: a pure function of an observation's bytes, a policy and a draw; and making a recorded one again."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from google.protobuf.message import DecodeError

from contracts.leyline.v1.event_pb2 import DecisionMade, EpochCompleted
from esper.errors import ContractViolation
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.tamiyo import serving
from esper.tamiyo.actions import Action, legal_actions
from esper.tamiyo.policy import Policy
from esper.tamiyo.risk import OVERRIDING, assess, obey_engine, obey_sheet
from esper.tamiyo.risk_engine import VERSION, Judged, judge

LAST_BITS: Final = 1e-4
"""How far a learned policy's logits may be apart on two processors, of 1 plus the logit; adding up in another order
changes them by a few 1e-7."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided and everything that derives it again. `action` indexes `actions`, `mask` and `logits`."""

    actions: list[Action]
    mask: list[bool]
    logits: list[float]
    draw: float
    action: int
    reason: str
    risk: float
    risk_reasons: list[str]
    value_estimate: float
    replaced: str
    """The action that the policy wanted, where risk has put another in its place."""
    judged: Judged
    """What the risk engine said, whether it binds the policy or not."""
    coverage: Mapping[str, float] = field(default_factory=dict)

    @property
    def chosen(self) -> Action:
        """The action taken."""
        return self.actions[self.action]


def decide(observation: bytes, policy: Policy, draw: float) -> Decision:
    """What `policy` does about an `EpochCompleted` body; the same arguments always give the same decision.

    Raises ContractViolation for bytes that are no such body, and as `pick` does.
    """
    try:
        state = EpochCompleted.FromString(observation)
    except DecodeError as error:
        raise ContractViolation(f"not an observation: {error}") from None
    actions, legal = legal_actions(state, policy.action_set)
    assessment = assess(state, actions, legal)
    advice = policy.advise(state, actions, legal)
    # 32-bit floats, as the event stores them, so that the choice can be derived from the event alone.
    logits = list(array("f", advice.logits))
    wanted = pick(logits, legal, draw, greedy=policy.greedy)
    judged = judge(state, actions[wanted], assessment.risks[wanted])
    if policy.risk_engine >= VERSION:
        obeyed = obey_engine(actions, assessment, wanted, judged)
    else:
        obeyed = obey_sheet(state, actions, assessment, wanted)
    logits += [OVERRIDING] * (len(obeyed.actions) - len(actions))
    action = pick(logits, obeyed.mask, draw, greedy=policy.greedy)
    if obeyed.replaced:
        reason = f"{advice.reason(wanted)}; but {obeyed.reasons[-1]}"
    elif policy.greedy and wanted != action:
        reason = f"{advice.reason(action)}; {actions[wanted]} was forbidden: {'; '.join(obeyed.reasons)}"
    else:
        reason = advice.reason(action)
    return Decision(
        actions=obeyed.actions,
        mask=obeyed.mask,
        logits=logits,
        draw=draw,
        action=action,
        reason=reason,
        risk=obeyed.risks[action],
        risk_reasons=obeyed.reasons,
        value_estimate=advice.value_estimate,
        replaced=str(actions[wanted]) if obeyed.replaced else "",
        judged=judged,
        coverage=advice.coverage,
    )


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


def rederived(made: DecisionMade, packet: Event, objects: ObjectStore) -> str | None:
    """How the decision comes out otherwise than recorded; empty where it is the same.

    None where this Esper has no policy with the recorded hash: then only the choice from mask, logits and draw was made
    again. Raises InvalidInput or CorruptState where a long observation, or a learned policy's weights, are not in the
    object store as they were.
    """
    observation = made.observation or objects.get(made.observation_ref)
    if hashlib.sha256(observation).digest() != made.observation_hash:
        return "the observation is not the one that was hashed"
    policy = serving.recorded(made.policy, made.policy_hash, made.policy_ref, objects)
    if policy is None:
        mask = [bool(each) for each in made.action_mask]
        ways = {pick(made.logits, mask, made.draw, greedy=greedy) for greedy in (True, False)}
        return None if made.action in ways else f"its logits do not give action {made.action}"
    state = EpochCompleted.FromString(observation)
    draw = draw_for(state.policy_seed, packet.timeline, state.state.current_epoch)
    again = decide(observation, policy, made.draw)
    if policy.weights and again.logits != list(made.logits) and _close(again.logits, made.logits):
        # Another processor adds up a network's sums in another order: then its choice counts, not the last bits.
        again = replace(again, logits=list(made.logits), reason=made.reason)
    for name, now, then in (
        ("packet", packet.epoch_completed.SerializeToString(deterministic=True), observation),
        ("draw", draw, made.draw),
        ("actions", [str(action) for action in again.actions], list(made.actions)),
        ("mask", bytes(again.mask), made.action_mask),
        ("logits", again.logits, list(made.logits)),
        ("action", again.action, made.action),
        ("reason", again.reason, made.reason),
        *_risk_again(again, made),
    ):
        if now != then:
            what = f"{now!r} instead of {then!r}"
            return f"{name} {what if len(what) < 200 else 'is another one'}"
    return ""


def _risk_again(again: Decision, made: DecisionMade) -> list[tuple[str, object, object]]:
    """What the risk engine said, beside what it says now; nothing of a decision from before there was one."""
    if not made.risk_engine:
        return []
    now = [each.message() for each in again.judged.verdicts]
    return [
        ("verdicts", now, list(made.verdicts)),
        ("risk memory", again.judged.memory, made.risk_memory),
        ("replaced", again.replaced, made.replaced),
    ]


def _close(logits: Sequence[float], recorded: Sequence[float]) -> bool:
    """Whether the same network on another processor may have given both."""
    pairs = zip(logits, recorded, strict=False)
    return len(logits) == len(recorded) and all(abs(now - then) <= LAST_BITS * (1.0 + abs(then)) for now, then in pairs)
