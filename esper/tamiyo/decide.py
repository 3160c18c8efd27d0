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
from esper.tamiyo.risk import OVERRIDING, assess, obey_sheet


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
    wanted = pick(logits, legal, draw, greedy=policy.greedy)
    obeyed = obey_sheet(state, actions, assessment, wanted)
    logits += [OVERRIDING] * (len(obeyed.actions) - len(actions))
    action = pick(logits, obeyed.mask, draw, greedy=policy.greedy)
    if obeyed.replaced:
        reason = f"{advice.reasons[wanted]}; but {obeyed.reasons[-1]}"
    elif policy.greedy and wanted != action:
        reason = f"{advice.reasons[action]}; {actions[wanted]} was forbidden: {'; '.join(obeyed.reasons)}"
    else:
        reason = advice.reasons[action]
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
    )
