"""The decision itself: a pure function of an observation's bytes, a policy and a draw."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from contracts.leyline.v1.event_pb2 import EpochCompleted
from esper.errors import ContractViolation
from esper.tamiyo.actions import Action, legal_actions
from esper.tamiyo.choice import pick
from esper.tamiyo.policy import Policy
from esper.tamiyo.risk import assess


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
    actions, legal = legal_actions(state)
    assessment = assess(state, actions, legal)
    advice = policy.advise(state, actions, legal)
    logits = list(
        array("f", advice.logits)
    )  # as the event stores them, so that the event alone derives the choice again
    action = pick(logits, assessment.mask, draw, greedy=policy.greedy)
    reason = advice.reasons[action]
    if policy.greedy:
        wanted = pick(logits, legal, draw, greedy=True)
        if wanted != action:
            reason = f"{reason}; {actions[wanted]} was forbidden: {'; '.join(assessment.reasons)}"
    return Decision(
        actions=actions,
        mask=assessment.mask,
        logits=logits,
        draw=draw,
        action=action,
        reason=reason,
        risk=assessment.risks[action],
        risk_reasons=assessment.reasons,
        value_estimate=advice.value_estimate,
    )
