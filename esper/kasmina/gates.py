"""The six exit gates, each a pure function of what was measured, and the probe losses that they compare.

Neither torch nor a clock is used here: a verdict can be judged again.

Every figure that counts is in the result with its limit, in the order in which it was checked; figures without a limit
are there to be read. A figure that is not finite fails whatever it is compared with. A gate that fails says which
check failed first.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from contracts.leyline.v1.event_pb2 import BreakerChanged, GateEvaluated, Measurement
from esper.kasmina.lifecycle import G0, G1, G2, G3, G4, G5, Gate, Stage
from esper.kasmina.settings import SeedSettings

if TYPE_CHECKING:
    from torch import Tensor

_HOLDS: Final[dict[str, Callable[[float, float], bool]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
SIGNS: Final = {"=": "=", "<": "<", "<=": "\N{LESS-THAN OR EQUAL TO}", ">": ">", ">=": "\N{GREATER-THAN OR EQUAL TO}"}
"""The rules as people read them."""
_HEALTH: Final = {"isolation_violations": "=", "forward_errors": "="}
_DRY_RUN: Final = {"shape_matches": "=", "finite": "=", "foreign_parameters": "=", "repeat_error": "<="}
RULES: Final[dict[Gate, dict[str, str]]] = {
    G0: {"kernel_ready": "=", **_DRY_RUN, "identity_error": "<="},
    G1: {
        **_HEALTH,
        "training_steps": ">=",
        "nonfinite_losses": "=",
        "gradient_norm": ">",
        "output_ratio": "<=",
        "trial_contribution": ">=",
    },
    G2: {**_HEALTH, "alpha": ">=", "kernel_latency_ms": "<=", "output_ratio": "<=", "loss_drift": "<="},
    G3: {**_HEALTH, **_DRY_RUN, "contribution": ">="},
    G4: {**_HEALTH, "contribution": ">", "loss_change": "<=", "alpha": ">=", "loss_fall": ">"},
    G5: {
        "modules": "=",
        "hooks": "=",
        "tensors": "=",
        "alpha": "=",
        "isolation_violations": "=",
        "counters": "=",
    },
}
"""How each figure of a gate must stand to its limit; a figure that is not here is told and not judged."""


def rule_of(gate: int, figure: str) -> str:
    """How a gate's figure must stand to its limit, such as `<=`; empty for one that this Esper does not judge."""
    return {int(each): rules for each, rules in RULES.items()}.get(gate, {}).get(figure, "")


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose gate it is."""

    seed_id: str
    stage: Stage
    life: int


@dataclass(frozen=True, slots=True)
class Check:
    """One figure; with a limit it must stand to it as `RULES` says, without one it is only told."""

    name: str
    value: float
    limit: float | None = None

    def holds(self, gate: Gate) -> bool:
        """Whether the figure keeps its limit; one without a limit always does, one that is not finite never."""
        if self.limit is None:
            return True
        return math.isfinite(self.value) and _HOLDS[RULES[gate][self.name]](self.value, self.limit)


@dataclass(frozen=True, slots=True)
class Health:
    """What every gate of a seed with a module asks first, counted over its whole life."""

    isolation_violations: int
    forward_errors: int

    def checks(self) -> tuple[Check, ...]:
        """Both must be zero."""
        return (
            Check("isolation_violations", self.isolation_violations, 0),
            Check("forward_errors", self.forward_errors, 0),
        )


@dataclass(frozen=True, slots=True)
class Paired:
    """A paired difference of probe losses, and its standard error."""

    mean: float
    stderr: float


@dataclass(frozen=True, slots=True)
class Loss:
    """The probe set's loss: mean, standard error of the mean, and each sample's own, shape (samples,).

    All losses of a run list the same samples in the same order, so that two of them can be compared pair by pair.
    """

    mean: float
    stderr: float
    per_sample: Tensor

    @classmethod
    def of(cls, per_sample: Tensor) -> Loss:
        """The loss whose samples are `per_sample`, any float dtype and device; it is kept as float64 on the CPU."""
        values = per_sample.detach().double().cpu().flatten().clone()
        mean, stderr = _mean_and_stderr(values)
        return cls(mean, stderr, values)


def difference(left: Loss, right: Loss) -> Paired:
    """`left` minus `right`, pair by pair: far less noisy than the difference of two means of the same samples."""
    return Paired(*_mean_and_stderr(left.per_sample - right.per_sample))


def _mean_and_stderr(values: Tensor) -> tuple[float, float]:
    count = values.numel()
    assert count > 0, "a probe set without samples"
    deviation = float(values.std()) if count > 1 else 0.0
    return float(values.mean()), deviation / math.sqrt(count)


@dataclass(frozen=True, slots=True)
class DryRun:
    """What came of running a fresh module once on random activations of its site's shape."""

    shape_matches: bool
    finite: bool
    foreign_parameters: int
    """Parameters that it shares with the host or another seed."""
    identity_error: float | None
    """Largest |s(h) - h|; None for a module that does not claim to begin as the identity."""
    repeat_error: float = 0.0
    """Largest difference between repetitions on the same activations and random numbers, against the output's largest
    value or 1."""
    trouble: str = ""
    """Why the library's kernel could not be used; empty where there is a module of the blueprint."""

    def checks(self) -> tuple[Check, ...]:
        """The module fits its site, shares nothing, and gives the same again, as a replay needs it to."""
        return (
            Check("shape_matches", self.shape_matches, 1),
            Check("finite", self.finite, 1),
            Check("foreign_parameters", self.foreign_parameters, 0),
            Check("repeat_error", self.repeat_error, 1e-5),
        )


@dataclass(frozen=True, slots=True)
class Learning:
    """How a seed did in TRAINING. `trial` is the probe loss at alpha 0 minus that with the seed at its target alpha."""

    parameters: int
    steps: int
    nonfinite_losses: int
    gradient_norm: float
    output_ratio: float
    trial: Paired
    loss: float
    """Probe loss without the seed."""


@dataclass(frozen=True, slots=True)
class Blended:
    """A seed at the end of its ramp. `drift` is the probe loss now minus that before germination."""

    alpha: float
    latency_ms: float
    output_ratio: float
    drift: Paired
    loss_before: float


@dataclass(frozen=True, slots=True)
class Impact:
    """A seed in full effect: `contribution` is loss at alpha 0 minus loss as it is, `change` loss now minus before."""

    contribution: Paired
    change: Paired
    loss_now: float


@dataclass(frozen=True, slots=True)
class Proof:
    """A seed of the `swift` profile at its proof: `change` is the probe loss now minus that before it germinated."""

    change: Paired
    loss_now: float
    alpha: float
    epochs: int
    """Epoch ends that it has been at full strength for."""


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What is still in a slot that was scrubbed; clean means every figure is zero."""

    modules: int
    hooks: int
    tensors: int
    alpha: float
    isolation_violations: int
    counters: int


def g0_sanity(subject: Subject, dry_run: DryRun) -> GateEvaluated:
    """Leaves GERMINATED: the kernel is there, fits, is finite, repeatable, shares nothing, begins as it claims to."""
    if dry_run.trouble:
        missing = _verdict(G0, subject, [Check("kernel_ready", 0, 1)])
        missing.reason = f"no kernel: {dry_run.trouble}"
        return missing
    checks = [*dry_run.checks()]
    if dry_run.identity_error is not None:
        checks.append(Check("identity_error", dry_run.identity_error, 1e-5))
    return _verdict(G0, subject, checks)


def g1_gradient_health(subject: Subject, health: Health, learning: Learning, settings: SeedSettings) -> GateEvaluated:
    """Leaves TRAINING: it learnt, stayed isolated and in proportion, and would do no harm if it were mixed in now.

    A module without parameters has nothing to learn, so no gradient is asked of it.
    """
    checks = [
        *health.checks(),
        Check("training_steps", learning.steps, 1),
        Check("nonfinite_losses", learning.nonfinite_losses, 0),
        Check("gradient_norm", learning.gradient_norm, settings.min_gradient_norm if learning.parameters else None),
        Check("output_ratio", learning.output_ratio, settings.max_output_ratio),
        Check("trial_contribution", learning.trial.mean, -_harm(learning.trial, learning.loss, settings)),
        Check("trial_stderr", learning.trial.stderr),
    ]
    return _verdict(G1, subject, checks)


def g2_stability(subject: Subject, health: Health, blended: Blended, settings: SeedSettings) -> GateEvaluated:
    """Leaves BLENDING: the ramp is finished, the output in proportion, and the loss has not run off."""
    checks = [
        *health.checks(),
        Check("alpha", blended.alpha, settings.min_blended_alpha),
        Check("kernel_latency_ms", blended.latency_ms, settings.max_kernel_latency_ms if settings.rules == 1 else None),
        Check("output_ratio", blended.output_ratio, settings.max_output_ratio),
        Check(
            "loss_drift",
            blended.drift.mean,
            max(settings.drift_z * blended.drift.stderr, settings.harm_share * blended.loss_before),
        ),
        Check("loss_drift_stderr", blended.drift.stderr),
    ]
    return _verdict(G2, subject, checks)


def g3_interface(
    subject: Subject, health: Health, dry_run: DryRun, impact: Impact, settings: SeedSettings
) -> GateEvaluated:
    """Leaves SHADOWING: the interface still holds, and the frozen seed does no harm against alpha 0."""
    checks = [
        *health.checks(),
        *dry_run.checks(),
        Check("contribution", impact.contribution.mean, -_harm(impact.contribution, impact.loss_now, settings)),
        Check("contribution_stderr", impact.contribution.stderr),
    ]
    return _verdict(G3, subject, checks)


def g4_system_impact(subject: Subject, health: Health, impact: Impact, settings: SeedSettings) -> GateEvaluated:
    """Leaves PROBATIONARY for good: the network depends on the seed, and is not worse than before it germinated.

    Both are asked because the first alone passes in nearly every run, also where the run ends worse than its control:
    it measures dependence, not benefit (measured over digits, chars and spirals).
    """
    checks = [
        *health.checks(),
        Check("contribution", impact.contribution.mean, settings.benefit_z * impact.contribution.stderr),
        Check("loss_change", impact.change.mean, settings.regression_z * impact.change.stderr),
        Check("contribution_stderr", impact.contribution.stderr),
        Check("loss_change_stderr", impact.change.stderr),
        Check("loss_now", impact.loss_now),
    ]
    return _verdict(G4, subject, checks)


def g4_proof(subject: Subject, health: Health, proof: Proof, settings: SeedSettings) -> GateEvaluated:
    """Leaves PROBATIONARY in the `swift` profile: the probe loss fell since the seed germinated, beyond its error.

    A seed that is not at full strength at the run's end has not proven itself.

    What the same epochs would have brought without the seed is not asked: a run has no control inside itself.
    """
    checks = [
        *health.checks(),
        Check("alpha", proof.alpha, 1),
        Check("loss_fall", -proof.change.mean, settings.benefit_z * proof.change.stderr),
        Check("loss_fall_stderr", proof.change.stderr),
        Check("loss_now", proof.loss_now),
        Check("proof_epochs", proof.epochs),
    ]
    return _verdict(G4, subject, checks)


def g5_reset(subject: Subject, leftovers: Leftovers) -> GateEvaluated:
    """Leaves RESETTING: nothing of the last life is left in the slot."""
    checks = [
        Check("modules", leftovers.modules, 0),
        Check("hooks", leftovers.hooks, 0),
        Check("tensors", leftovers.tensors, 0),
        Check("alpha", leftovers.alpha, 0),
        Check("isolation_violations", leftovers.isolation_violations, 0),
        Check("counters", leftovers.counters, 0),
    ]
    return _verdict(G5, subject, checks)


def _harm(difference: Paired, loss: float, settings: SeedSettings) -> float:
    """How much worse the probe loss may be before that counts as harm."""
    return max(settings.harm_z * difference.stderr, settings.harm_share * loss)


def _verdict(gate: Gate, subject: Subject, checks: list[Check]) -> GateEvaluated:
    failed = next((check for check in checks if not check.holds(gate)), None)
    reason = "every check holds" if failed is None else f"{failed.name} is {failed.value:g}, not {_bound(gate, failed)}"
    return GateEvaluated(
        seed_id=subject.seed_id,
        gate=gate,
        passed=failed is None,
        reason=reason,
        measurements=[Measurement(name=check.name, value=check.value, limit=check.limit) for check in checks],
        stage=subject.stage,
        life=subject.life,
    )


def _bound(gate: Gate, check: Check) -> str:
    rule = RULES[gate][check.name]
    return f"{check.limit:g}" if rule == "=" else f"{rule} {check.limit:g}"


class Verdicts(Protocol):
    """What a run goes by where a clock has a part in a verdict: a kernel's latency, how close violations came.

    A live run goes by what it measured, a replayed one by what is recorded. What is measured for a verdict is measured
    in either case, because some of it is part of the seeds' state.
    """

    def verdict(self, found: GateEvaluated) -> GateEvaluated:
        """The verdict that counts where `found` was measured."""

    def opened(self, found: Mapping[str, BreakerChanged]) -> dict[str, BreakerChanged]:
        """The isolation breakers that count as opened in this step, by seed, in the order in which they are told."""


class MeasuredVerdicts:
    """What was measured counts."""

    def verdict(self, found: GateEvaluated) -> GateEvaluated:
        """As measured."""
        return found

    def opened(self, found: Mapping[str, BreakerChanged]) -> dict[str, BreakerChanged]:
        """As measured."""
        return dict(found)
