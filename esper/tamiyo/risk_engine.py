"""The risk engine, version 2: ten evaluators in a fixed order over what a policy wants, and the adaptive dimensions.

`judge` is pure. Each evaluator says what it has to say of the wish and the state; effects are ordered from a note to a
rollback, and the strictest of all holds: a later one never weakens an earlier one (R-TAM-35). What it has to remember
(thresholds, windows, conservative mode, breakers, calibration) comes with the observation and leaves with the decision.

A clock never decides (ruling 29): hook times and utilisation are noted, and all dwells are counted in epochs.

Table 1.7 of the policy sheet; requirements R-TAM-26 to 38.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from contracts.leyline.v1.event_pb2 import EpochCompleted, RiskBreaker, RiskMemory, RiskVerdict
from contracts.leyline.v1.leyline_pb2 import (
    CIRCUIT_BREAKER_STATE_CLOSED,
    CIRCUIT_BREAKER_STATE_HALF_OPEN,
    CIRCUIT_BREAKER_STATE_OPEN,
    CircuitBreakerState,
)
from esper.tamiyo import risk_dimensions as dimensions
from esper.tamiyo.actions import Action
from esper.tamiyo.risk import (
    HOOK_MS,
    LOSS_RISE_CAUTION,
    LOSS_RISE_PAUSE,
    RISK_CAUTION,
    RISK_PAUSE,
    SAFE,
    variance_about_trend,
)
from esper.tamiyo.risk_dimensions import DIMENSIONS, Figures

VERSION: Final = 2
EFFECTS: Final = ("note", "optimizer", "pause", "rollback")
"""What a verdict makes of the wish, from the weakest to the strictest: nothing, the optimiser's turn instead of what
grows, nobody's turn, and the way back."""
BLUEPRINT_PAUSE: Final = 0.8
BLUEPRINT_CAUTION: Final = 0.5
STEP_MS: Final = 120.0
VOLATILITY: Final = 0.1125
GRADIENT_VARIANCE: Final = 1.0
CONFLICTS: Final = 0.5
DWELL_EPOCHS: Final = 3
"""Epochs without trouble after which conservative mode ends: the original's ten minutes, without a clock."""
BREAKER_FAILURES: Final = 3
COOLDOWN_EPOCHS: Final = 1
INFERENCE: Final = "inference"
METADATA: Final = "metadata"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one evaluator said: its effect, why, the figure that it looked at and that figure's limit.

    `conservative` says that it puts the engine into conservative mode.
    """

    evaluator: str
    effect: str
    reason: str
    value: float = 0.0
    limit: float = 0.0
    conservative: bool = False

    def message(self) -> RiskVerdict:
        """The verdict as a decision holds it."""
        return RiskVerdict(
            evaluator=self.evaluator, effect=self.effect, reason=self.reason, value=self.value, limit=self.limit
        )


@dataclass(frozen=True, slots=True)
class Situation:
    """What the evaluators look at: the state, what is wanted and how risky that is, and the dimensions' figures."""

    state: EpochCompleted
    wanted: Action
    risk: float
    found: Figures
    memory: RiskMemory

    @property
    def grows(self) -> bool:
        """Whether a seed is to germinate."""
        return self.wanted.kind == "germinate"

    @property
    def safe(self) -> bool:
        """Whether nothing is wanted that could do harm."""
        return self.wanted.kind in (*SAFE, "pause", "hold", "breaker_open", "breaker_close")


@dataclass(frozen=True, slots=True)
class Judged:
    """All verdicts in the order of the evaluators, the strictest effect, and the memory for the next packet."""

    verdicts: list[Verdict]
    effect: str
    level: int
    memory: RiskMemory
    events: list[tuple[str, str]] = field(default_factory=list)
    """What changed of mode and breakers, each with why: at most one entry and one exit of conservative mode."""


def strictest(effects: list[str]) -> str:
    """The strictest of these; a note where there is none."""
    return max(effects, key=EFFECTS.index, default="note")


def judge(state: EpochCompleted, wanted: Action, risk: float) -> Judged:
    """What the engine says of `wanted`, whose expected risk is `risk`, in this state."""
    memory = RiskMemory()
    memory.CopyFrom(state.risk_memory)
    _learn(memory, state)
    found = dimensions.figures(state, wanted, memory)
    events = _follow_breakers(memory, state)
    situation = Situation(state, wanted, risk, found, memory)
    verdicts = [each for evaluator in EVALUATORS for each in evaluator(situation)]
    verdicts += _of_dimensions(situation)
    events += _follow_mode(memory, state, verdicts)
    _keep(memory, state, found)
    return Judged(verdicts, strictest([each.effect for each in verdicts]), found.level, memory, events)


# ---------------------------------------------------------------------------------------------------------- evaluators

Evaluator = Callable[[Situation], list[Verdict]]


def _limited(
    name: str, what: str, value: float, limit: float, effect: str, *, conservative: bool = False
) -> list[Verdict]:
    """A verdict where a figure is above its limit, or is no number."""
    if value <= limit:
        return []
    return [Verdict(name, effect, f"{what} {value:.3g} above {limit:g}", value, limit, conservative)]


def _policy_risk(at: Situation) -> list[Verdict]:
    """1: the expected risk of what is wanted, never the confidence of a class (R-TAM-34)."""
    if at.safe or not at.risk >= RISK_CAUTION:
        return []
    critical = at.risk >= RISK_PAUSE
    if not critical and not at.grows:
        return [Verdict("policy_risk", "note", f"expected risk {at.risk:.3g}", at.risk, RISK_PAUSE)]
    limit = RISK_PAUSE if critical else RISK_CAUTION
    effect = "pause" if critical else "optimizer"
    return [Verdict("policy_risk", effect, f"expected risk {at.risk:.3g}, {limit:g} or more", at.risk, limit, critical)]


def _conservative_mode(at: Situation) -> list[Verdict]:
    """2: in conservative mode nothing but a pause or what is safe anyway (R-TAM-37).

    In the trainer's own the mask has taken away what grows already; another pause would make it last for ever.
    """
    if not at.safe and at.memory.conservative_since:
        return [Verdict("conservative_mode", "pause", f"conservative mode since {at.memory.conservative_cause}")]
    return [Verdict("conservative_mode", "note", "the trainer's conservative mode")] if at.state.conservative else []


def _timeouts(at: Situation) -> list[Verdict]:
    """3: the last decision came too late; that is the breaker's and the mode's business."""
    if at.state.last_decision.outcome != "timed_out":
        return []
    return [Verdict("timeouts", "note", "the last decision did not come in time", conservative=True)]


def _blueprint_risk(at: Situation) -> list[Verdict]:
    """4: R-TAM-29 read through ruling 29."""
    risk = at.wanted.risk
    if not at.grows or risk <= BLUEPRINT_CAUTION + 1e-6:
        return []
    stops = not risk < BLUEPRINT_PAUSE
    limit = BLUEPRINT_PAUSE if stops else BLUEPRINT_CAUTION
    reason = f"risk {risk:.3g} of {at.wanted.blueprint_id}, limit {limit:g}"
    return [Verdict("blueprint_risk", "pause" if stops else "optimizer", reason, risk, limit, stops)]


def _bsds(at: Situation) -> list[Verdict]:
    """5: what the risk data sheet of the blueprint asks for (R-TAM-30)."""
    if not at.grows or at.wanted.sheet == "none":
        return []
    effect = {"pause": "pause", "downgrade": "optimizer"}.get(at.wanted.sheet, "note")
    reason = f"the risk data sheet of {at.wanted.blueprint_id}: {at.wanted.sheet}"
    return [Verdict("bsds", effect, reason, conservative=effect == "pause")]


def _loss_metrics(at: Situation) -> list[Verdict]:
    """6: how far the probe loss rose in this epoch, beyond its noise (R-TAM-28)."""
    rise = _rise(at.state)
    if not math.isnan(rise) and rise <= max(LOSS_RISE_CAUTION, 2.0 * at.state.probe_loss_stderr):
        return []
    stops = not rise <= LOSS_RISE_PAUSE
    if not stops and not at.grows:
        return [Verdict("loss_metrics", "note", f"probe loss rose by {rise:.3g}", rise, LOSS_RISE_CAUTION)]
    limit = LOSS_RISE_PAUSE if stops else LOSS_RISE_CAUTION
    return [
        Verdict("loss_metrics", "pause" if stops else "optimizer", f"probe loss rose by {rise:.3g}", rise, limit, stops)
    ]


def _latency_metrics(at: Situation) -> list[Verdict]:
    """7: noted, and never more: a clock decides nothing (ruling 29)."""
    return _limited("latency_metrics", "last hook, ms,", at.state.hook_ms_before, HOOK_MS, "note")


def _isolation_and_device(at: Situation) -> list[Verdict]:
    """8: a seed that leaks into the host stops everything; how busy a device is, is noted (R-TAM-32)."""
    leaking = [seed.seed_id for seed in at.state.seeds if seed.isolation_violations > 0]
    found = _limited("isolation_and_device", "memory in use", at.found.values[1], 0.95, "note")
    if leaking:
        count = float(sum(seed.isolation_violations for seed in at.state.seeds))
        found.insert(0, Verdict("isolation_and_device", "pause", f"isolation violated by {', '.join(leaking)}", count))
    return found


def _optimizer_hints(at: Situation) -> list[Verdict]:
    """9: the optimiser is to calm down before anything grows (R-TAM-33)."""
    if not at.grows:
        return []
    metrics, variance = at.state.state.training_metrics, variance_about_trend(at.state.probe_loss_history)
    volatility = math.sqrt(variance) if math.isfinite(variance) else variance
    found = _limited("optimizer_hints", "probe loss volatility", volatility, VOLATILITY, "optimizer")
    gradient_variance = metrics.get("gradient_variance", 0.0)
    found += _limited("optimizer_hints", "gradient variance", gradient_variance, GRADIENT_VARIANCE, "optimizer")
    conflicts = metrics.get("gradient_conflict_rate", 0.0)
    found += _limited("optimizer_hints", "share of conflicting gradients", conflicts, CONFLICTS, "optimizer")
    rate = metrics.get("optimizer_lr", 1.0)
    if not rate > 0.0 and _rise(at.state) > LOSS_RISE_CAUTION:
        found.append(Verdict("optimizer_hints", "optimizer", "the learning rate is 0 and the loss rises", rate))
    return found


def _stabilisation(at: Situation) -> list[Verdict]:
    """10: says how long conservative mode has been calm; leaving it is the mode's own business."""
    if not at.memory.conservative_since:
        return []
    calm = at.memory.stable_epochs
    return [Verdict("stabilisation", "note", f"{calm} calm epochs of {DWELL_EPOCHS}", float(calm), float(DWELL_EPOCHS))]


EVALUATORS: Final[tuple[Evaluator, ...]] = (
    _policy_risk,
    _conservative_mode,
    _timeouts,
    _blueprint_risk,
    _bsds,
    _loss_metrics,
    _latency_metrics,
    _isolation_and_device,
    _optimizer_hints,
    _stabilisation,
)


def _rise(state: EpochCompleted) -> float:
    """How far the probe loss rose in the last epoch; NaN where one of the two is no number."""
    history = state.probe_loss_history
    rise = history[-1] - history[-2] if len(history) > 1 else 0.0
    return rise if math.isfinite(rise) else math.nan


def _of_dimensions(at: Situation) -> list[Verdict]:
    """The dimensions that count, the pre-checks, and what an emergency asks for."""
    found = [
        Verdict(each.name, "note", f"{each.name} {value:.3g} above {threshold:.3g}", value, threshold)
        for each, value, threshold, score in zip(
            DIMENSIONS, at.found.values, at.found.thresholds, at.found.counted, strict=True
        )
        if score > 0.0
    ]
    for what, value, limit, _ in dimensions.prechecks(at.found):
        found.append(Verdict("pre_check", "note", f"{what} {value:.3g} above {limit:g}", value, limit))
    asked = dimensions.emergency(at.found)
    if asked:
        # One way back is enough: where it did not help, a second within the dwell would not either.
        again = at.memory.conservative_cause == "emergency"
        effect = "pause" if again or asked != "rollback" else "rollback"
        reason = f"emergency at level {at.found.level}: {asked}" + (", which was tried" if again else "")
        found.append(
            Verdict("emergency", "note" if asked == "conservative" else effect, reason, at.found.score, 0.8, True)
        )
    return found


# ------------------------------------------------------------------------------------------------- what it remembers


def _learn(memory: RiskMemory, state: EpochCompleted) -> None:
    """Note whether the last level was right, where a decision was made an epoch ago."""
    failed = dimensions.failed_since(state)
    if failed is not None and state.HasField("risk_memory"):
        predicted = memory.level >= dimensions.PREDICTS_FAILURE
        dimensions.note_outcome(memory, predicted=predicted, failed=failed)


def _follow_mode(memory: RiskMemory, state: EpochCompleted, verdicts: list[Verdict]) -> list[tuple[str, str]]:
    """Enter or leave conservative mode: it lasts DWELL_EPOCHS calm epochs, so one whole evaluation at least."""
    epoch = state.state.current_epoch
    cause = next((each for each in verdicts if each.conservative), None)
    if cause is not None:
        memory.stable_epochs = 0
        if memory.conservative_since:
            return []
        memory.conservative_since, memory.conservative_cause = max(1, epoch), cause.evaluator
        return [("conservative_entered", f"{cause.evaluator}: {cause.reason}")]
    if not memory.conservative_since:
        return []
    memory.stable_epochs += 1
    closed = all(each.state == CIRCUIT_BREAKER_STATE_CLOSED for each in memory.breakers)
    if memory.stable_epochs < DWELL_EPOCHS or not closed:
        return []
    left = f"{memory.stable_epochs} calm epochs since {memory.conservative_cause}"
    memory.conservative_since, memory.stable_epochs = 0, 0
    memory.conservative_cause = ""
    return [("conservative_exited", left)]


def _follow_breakers(memory: RiskMemory, state: EpochCompleted) -> list[tuple[str, str]]:
    """Count the last decision as a success or a failure of what it took."""
    if not memory.breakers:
        names = (INFERENCE, METADATA)
        memory.breakers.extend(RiskBreaker(name=name, state=CIRCUIT_BREAKER_STATE_CLOSED) for name in names)
    late = state.last_decision.outcome == "timed_out"
    incomplete = not state.sites and bool(state.seeds)
    events = []
    for breaker in memory.breakers:
        failed = late if breaker.name == INFERENCE else incomplete
        moved = follow_breaker(breaker, failed=failed, epoch=state.state.current_epoch)
        if moved:
            events.append((f"breaker_{moved}", breaker.name))
    return events


def follow_breaker(breaker: RiskBreaker, *, failed: bool, epoch: int) -> str:
    """One epoch more for a breaker; `opened`, `half_opened` or `closed` where it moved, else empty (R-TAM-38).

    Three failures open it, a success takes one back; after its cooldown one trial closes it or opens it again.
    """
    if breaker.state == CIRCUIT_BREAKER_STATE_OPEN:
        if epoch - breaker.opened_epoch < COOLDOWN_EPOCHS:
            return ""
        breaker.state = CIRCUIT_BREAKER_STATE_HALF_OPEN
        return _probed(breaker, failed=failed, epoch=epoch) or "half_opened"
    if breaker.state == CIRCUIT_BREAKER_STATE_HALF_OPEN:
        return _probed(breaker, failed=failed, epoch=epoch)
    breaker.failures = breaker.failures + 1 if failed else max(0, breaker.failures - 1)
    return _moved(breaker, CIRCUIT_BREAKER_STATE_OPEN, epoch) if breaker.failures >= BREAKER_FAILURES else ""


def _probed(breaker: RiskBreaker, *, failed: bool, epoch: int) -> str:
    return _moved(breaker, CIRCUIT_BREAKER_STATE_OPEN if failed else CIRCUIT_BREAKER_STATE_CLOSED, epoch)


def _moved(breaker: RiskBreaker, to: CircuitBreakerState, epoch: int) -> str:
    breaker.state = to
    opened = to == CIRCUIT_BREAKER_STATE_OPEN
    breaker.opened_epoch = epoch if opened else 0
    breaker.failures = breaker.failures if opened else 0
    return "opened" if opened else "closed"


def _keep(memory: RiskMemory, state: EpochCompleted, found: Figures) -> None:
    """The windows, the level and, every ten epochs, the thresholds for the next packet."""
    epoch, accuracy = state.state.current_epoch, state.state.validation_accuracy
    thresholds = list(found.thresholds)
    if epoch - memory.tuned_epoch >= dimensions.TUNE_EPOCHS:
        gradient, _, variance = found.values
        gain = accuracy - memory.accuracy if memory.tuned_epoch else 0.0
        thresholds = dimensions.tuned(thresholds, dimensions.stability_score(variance, gradient, gain))
        memory.tuned_epoch, memory.accuracy = epoch, accuracy if math.isfinite(accuracy) else 0.0
    del memory.thresholds[:], memory.out_of_bounds[:]
    memory.thresholds.extend(thresholds)
    memory.out_of_bounds.extend(found.out_of_bounds)
    memory.level = found.level
