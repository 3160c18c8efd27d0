"""How risky an action is, and the evaluators that may forbid it.

Risk is the probability that something goes wrong, never the confidence of a top class (R-TAM-34): the state's own risk
and the blueprint's, taken as independent. Evaluators run in a fixed order and each can only take actions away, so a
later one is never weaker than an earlier one (R-TAM-35). `nothing` and `cull`, the safe actions, are never taken away.
The last of them, `obey_sheet`, puts a pause or an optimiser command in the place of a germination that a risk data
sheet is against.

Limits are the original's, with two deviations. Blueprints of risk 0.5 may grow, because 0.5 is the edge of the safe
tier and half of that tier has it; above it they may not. And no evaluator looks at wall-clock times: a decision that
depended on how busy the machine is could not be repeated. Slow hooks are named among the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from contracts.leyline.v1.event_pb2 import EpochCompleted
from esper.karn.risk_sheet import ADVICE
from esper.tamiyo.actions import Action, Kind

if TYPE_CHECKING:
    from esper.tamiyo.risk_engine import Judged

GRADIENT: Final = (5.0, 20.0, 0.30)
"""Training gradient norm: base, emergency and weight of the dimension; likewise the others."""
MEMORY: Final = (0.80, 0.95, 0.25)
STABILITY: Final = (0.10, 0.50, 0.20)
"""Variance of the probe loss over the last epochs, about its own trend."""
LARGEST_LOSS: Final = 1e150
"""The square of a larger one is no float any more."""
HOOK_MS: Final = 50.0
LOSS_RISE_PAUSE: Final = 0.15
LOSS_RISE_CAUTION: Final = 0.075
RISK_PAUSE: Final = 0.98
RISK_CAUTION: Final = 0.85
BLUEPRINT_RISK: Final = 0.5
"""The largest catalogue risk that may grow: the edge of the safe tier."""

SAFE: Final = ("nothing", "cull")
"""Actions that no evaluator takes away."""
RISKY: Final = ("germinate", "fossilize", "advance")
OVERRIDING: Final = 1e6
"""The logit of what a risk data sheet puts in a germination's place: the softmax gives it probability 1."""


@dataclass(frozen=True, slots=True)
class Obeyed:
    """What a risk data sheet left: as an `Assessment`, with one more action at the end where it `replaced` the wish."""

    actions: list[Action]
    mask: list[bool]
    risks: list[float]
    reasons: list[str]
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the evaluators left: the narrowed mask, the risk of each action in 0..1, and why anything was taken away."""

    mask: list[bool]
    risks: list[float]
    reasons: list[str]


def assess(state: EpochCompleted, actions: Sequence[Action], mask: Sequence[bool]) -> Assessment:
    """Judge every action; an evaluator's reason is kept where it took something away or is a warning by itself."""
    of_state, reasons = state_risk(state)
    risks = [action_risk(action, of_state) for action in actions]
    narrowed = list(mask)
    left = [index for index, action in enumerate(actions) if mask[index] and is_risky(action)]
    for evaluator in EVALUATORS:
        forbids, reason = evaluator(state)
        taken = [index for index in left if forbids(actions[index], risks[index])]
        for index in taken:
            narrowed[index] = False
        if taken:
            left = [index for index in left if narrowed[index]]
            reasons.append(reason)
    return Assessment(narrowed, risks, reasons)


def is_risky(action: Action) -> bool:
    """Whether an evaluator may take the action away: what adds to the network, and higher learning rates."""
    return action.kind in RISKY or (action.kind == "adjust" and not action.seed_id and action.size > 1.0)


def action_risk(action: Action, of_state: float) -> float:
    """The probability that the action goes wrong; doing nothing carries the state's risk, a cull ends the seed's."""
    risk = action.risk if math.isfinite(action.risk) else 1.0
    return 1.0 - (1.0 - of_state) * (1.0 - min(max(risk, 0.0), 1.0))


def state_risk(state: EpochCompleted) -> tuple[float, list[str]]:
    """The risk of the state itself in 0..1, and a reason for every dimension that is out of bounds."""
    dimensions = (
        ("gradient norm", state.state.training_metrics.get("gradient_norm", 0.0), GRADIENT),
        ("memory in use", memory_in_use(state), MEMORY),
        ("probe loss variance", variance_about_trend(state.probe_loss_history), STABILITY),
    )
    risk, reasons = 0.0, []
    for name, value, (base, emergency, weight) in dimensions:
        score = dimension_score(value, base, emergency)
        risk += weight * score
        if not math.isfinite(value):
            reasons.append(f"{name} is not known: {value:g} is no figure to go by")
        elif score > 0.0:
            reasons.append(f"{name} {value:.3g} above {base:g}")
    if state.hook_ms_before > HOOK_MS:
        reasons.append(f"last hook took {state.hook_ms_before:.0f} ms")
    return risk, reasons


def memory_in_use(state: EpochCompleted) -> float:
    """The share of its device's memory that the run leaves nobody else; 0 on a CPU, whose memory is everybody's."""
    hardware = state.state.hardware_context
    total = hardware.total_memory_gb
    of_device = hardware.device_type == "cuda" and total > 0.0
    return 1.0 - hardware.available_memory_gb / total if of_device else 0.0


def dimension_score(value: float, base: float, emergency: float) -> float:
    """0 up to `base`, linear to 1 at `emergency` (R-TAM-22); a value that is not finite counts as an emergency."""
    return 1.0 if not math.isfinite(value) else min(max((value - base) / (emergency - base), 0.0), 1.0)


def obey_sheet(state: EpochCompleted, actions: Sequence[Action], before: Assessment, wanted: int) -> Obeyed:
    """What is left when the risk data sheet of the germination that the policy wants has had its say (R-KARN-20).

    The last evaluator: to pause or to adjust the optimiser stands instead of everything that grows or fossilizes, with
    a logit of its own that outweighs all others; a note changes nothing. In conservative mode nothing grows anyway.
    """
    action = actions[wanted]
    if action.kind != "germinate" or action.sheet == "none" or state.conservative:
        return Obeyed(list(actions), before.mask, before.risks, before.reasons)
    says = f"the risk data sheet of {action.blueprint_id} says: {ADVICE[action.sheet]}"
    if action.sheet == "note":
        return Obeyed(list(actions), before.mask, before.risks, [*before.reasons, says])
    instead = Action("pause" if action.sheet == "pause" else "adjust", action.seed_id, action.blueprint_id)
    safe = [left and each.kind in SAFE for left, each in zip(before.mask, actions, strict=True)]
    risks = [*before.risks, before.risks[0]]
    return Obeyed([*actions, instead], [*safe, True], risks, [*before.reasons, says], replaced=True)


def obey_engine(actions: Sequence[Action], before: Assessment, wanted: int, judged: Judged) -> Obeyed:
    """What is left when version 2 of the risk engine has had its say: its strictest effect stands for the wish.

    A pause and a rollback stand in the place of everything else, the optimiser's turn in the place of what grows.
    """
    reasons = [*before.reasons, *(each.reason for each in judged.verdicts)]
    if judged.effect == "note":
        return Obeyed(list(actions), before.mask, before.risks, reasons)
    kind: Kind = {"optimizer": "adjust", "pause": "pause"}.get(judged.effect, "rollback")  # type: ignore[assignment]
    strict = [each.reason for each in judged.verdicts if each.effect == judged.effect]
    instead = Action(kind, actions[wanted].seed_id, actions[wanted].blueprint_id)
    nothing_else = [False] * len(actions)
    risks = [*before.risks, before.risks[0]]
    return Obeyed([*actions, instead], [*nothing_else, True], risks, [*reasons, strict[0]], replaced=True)


Forbids = Callable[[Action, float], bool]


def _policy_risk(_state: EpochCompleted) -> tuple[Forbids, str]:
    def forbids(action: Action, risk: float) -> bool:
        return risk >= (RISK_CAUTION if action.kind == "germinate" else RISK_PAUSE)

    return forbids, f"expected risk of {RISK_CAUTION:g} or more"


def _conservative_mode(state: EpochCompleted) -> tuple[Forbids, str]:
    return lambda _action, _risk: state.conservative, "conservative mode: only culls"


def _blueprint_risk(_state: EpochCompleted) -> tuple[Forbids, str]:
    return lambda action, _risk: not action.risk <= BLUEPRINT_RISK + 1e-6, f"blueprint risk above {BLUEPRINT_RISK:g}"


def _loss_rise(state: EpochCompleted) -> tuple[Forbids, str]:
    history = state.probe_loss_history
    rise = history[-1] - history[-2] if len(history) > 1 else 0.0
    rise = rise if math.isfinite(rise) else math.nan
    beyond_noise = math.isnan(rise) or rise > 2.0 * state.probe_loss_stderr

    def forbids(action: Action, _risk: float) -> bool:
        limit = LOSS_RISE_CAUTION if action.kind == "germinate" else LOSS_RISE_PAUSE
        return beyond_noise and not rise <= limit

    if math.isnan(rise):
        return forbids, f"how far the probe loss rose is not known: it went from {history[-2]:g} to {history[-1]:g}"
    return forbids, f"probe loss rose by {rise:.3f} in one epoch"


def _isolation(state: EpochCompleted) -> tuple[Forbids, str]:
    leaking = [seed.seed_id for seed in state.seeds if seed.isolation_violations > 0]
    return lambda _action, _risk: bool(leaking), f"isolation violated by {', '.join(leaking)}"


EVALUATORS: Final = (_policy_risk, _conservative_mode, _blueprint_risk, _loss_rise, _isolation)


def variance_about_trend(history: Sequence[float]) -> float:
    """Variance of what a straight line through the last six losses leaves over; 0 for fewer than three.

    NaN where a loss is not finite, or so large that its square is not.
    """
    recent = history[-6:]
    count = len(recent)
    if count < 3:
        return 0.0
    if not all(abs(loss) < LARGEST_LOSS for loss in recent):
        return math.nan
    middle, mean = (count - 1) / 2, math.fsum(recent) / count
    slope = math.fsum((x - middle) * y for x, y in enumerate(recent)) / math.fsum(
        (x - middle) ** 2 for x in range(count)
    )
    return math.fsum((y - mean - slope * (x - middle)) ** 2 for x, y in enumerate(recent)) / (count - 2)
