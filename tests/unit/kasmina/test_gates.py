"""R-KAS-5 to R-KAS-9: each gate passes on good figures, and fails on every single one of them that is bad."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from esper.kasmina import gates, lifecycle
from esper.kasmina.gates import Blended, DryRun, Health, Impact, Learning, Leftovers, Paired, Subject
from esper.kasmina.settings import SeedSettings

SETTINGS = SeedSettings()
WELL = Health(isolation_violations=0, forward_errors=0)
SICK = {
    "isolation_violations": replace(WELL, isolation_violations=1),
    "forward_errors": replace(WELL, forward_errors=1),
}
FITS = DryRun(shape_matches=True, finite=True, foreign_parameters=0, identity_error=0.0, repeat_error=0.0)
LEARNT = Learning(
    parameters=10, steps=8, nonfinite_losses=0, gradient_norm=0.1, output_ratio=0.4, trial=Paired(0.01, 0.02), loss=0.5
)
BLENDED = Blended(alpha=1.0, latency_ms=9.9, output_ratio=0.4, drift=Paired(0.05, 0.02), loss_before=0.5)
IMPACT = Impact(contribution=Paired(0.03, 0.02), change=Paired(0.01, 0.02), loss_now=0.5)
NEUTRAL = Impact(contribution=Paired(0.0, 0.01), change=Paired(0.0, 0.01), loss_now=0.5)
CLEAN = Leftovers(modules=0, hooks=0, tensors=0, alpha=0.0, isolation_violations=0, counters=0)


def subject(stage):
    return Subject("s1", stage, 2)


def judge_g0(dry_run):
    return gates.g0_sanity(subject(lifecycle.GERMINATED), dry_run)


def judge_g1(learning, health=WELL):
    return gates.g1_gradient_health(subject(lifecycle.TRAINING), health, learning, SETTINGS)


def judge_g2(blended, health=WELL, settings=SETTINGS):
    return gates.g2_stability(subject(lifecycle.BLENDING), health, blended, settings)


def judge_g2_then(blended):
    """By the rules that a kernel's latency counted in."""
    return judge_g2(blended, settings=SeedSettings(rules=1))


def judge_g3(dry_run=FITS, impact=NEUTRAL, health=WELL):
    return gates.g3_interface(subject(lifecycle.SHADOWING), health, dry_run, impact, SETTINGS)


def judge_g4(impact, health=WELL):
    return gates.g4_system_impact(subject(lifecycle.PROBATIONARY), health, impact, SETTINGS)


def judge_g5(leftovers):
    return gates.g5_reset(subject(lifecycle.RESETTING), leftovers)


@pytest.mark.parametrize(
    ("verdict", "gate", "stage"),
    [
        (judge_g0(FITS), lifecycle.G0, lifecycle.GERMINATED),
        (judge_g1(LEARNT), lifecycle.G1, lifecycle.TRAINING),
        (judge_g2(BLENDED), lifecycle.G2, lifecycle.BLENDING),
        (judge_g3(), lifecycle.G3, lifecycle.SHADOWING),
        (judge_g4(IMPACT), lifecycle.G4, lifecycle.PROBATIONARY),
        (judge_g5(CLEAN), lifecycle.G5, lifecycle.RESETTING),
    ],
)
def test_good_figures_pass(verdict, gate, stage):
    assert verdict.passed
    assert (verdict.gate, verdict.stage, verdict.seed_id, verdict.life) == (gate, stage, "s1", 2)
    assert verdict.reason == "every check holds"
    assert any(measurement.HasField("limit") for measurement in verdict.measurements)


FAILING = [
    ("shape_matches", judge_g0(replace(FITS, shape_matches=False))),
    ("finite", judge_g0(replace(FITS, finite=False))),
    ("foreign_parameters", judge_g0(replace(FITS, foreign_parameters=1))),
    ("identity_error", judge_g0(replace(FITS, identity_error=1e-3))),
    ("repeat_error", judge_g0(replace(FITS, repeat_error=1e-3))),
    ("repeat_error", judge_g0(replace(FITS, repeat_error=math.nan))),
    *((name, judge_g1(LEARNT, health)) for name, health in SICK.items()),
    ("training_steps", judge_g1(replace(LEARNT, steps=0))),
    ("nonfinite_losses", judge_g1(replace(LEARNT, nonfinite_losses=1))),
    ("gradient_norm", judge_g1(replace(LEARNT, gradient_norm=0.0))),
    ("gradient_norm", judge_g1(replace(LEARNT, gradient_norm=1e-7))),
    ("gradient_norm", judge_g1(replace(LEARNT, gradient_norm=math.nan))),
    ("output_ratio", judge_g1(replace(LEARNT, output_ratio=11.8))),
    ("trial_contribution", judge_g1(replace(LEARNT, trial=Paired(-0.05, 0.02)))),
    ("trial_contribution", judge_g1(replace(LEARNT, trial=Paired(math.nan, 0.02)))),
    *((name, judge_g2(BLENDED, health)) for name, health in SICK.items()),
    ("alpha", judge_g2(replace(BLENDED, alpha=0.94))),
    ("kernel_latency_ms", judge_g2_then(replace(BLENDED, latency_ms=10.1))),
    ("output_ratio", judge_g2(replace(BLENDED, output_ratio=math.inf))),
    ("loss_drift", judge_g2(replace(BLENDED, drift=Paired(0.07, 0.02)))),
    *((name, judge_g3(health=health)) for name, health in SICK.items()),
    ("shape_matches", judge_g3(replace(FITS, shape_matches=False))),
    ("finite", judge_g3(replace(FITS, finite=False))),
    ("foreign_parameters", judge_g3(replace(FITS, foreign_parameters=2))),
    ("repeat_error", judge_g3(replace(FITS, repeat_error=1e-3))),
    ("contribution", judge_g3(impact=replace(NEUTRAL, contribution=Paired(-0.03, 0.01)))),
    *((name, judge_g4(IMPACT, health)) for name, health in SICK.items()),
    ("contribution", judge_g4(replace(IMPACT, contribution=Paired(0.02, 0.02)))),
    ("loss_change", judge_g4(replace(IMPACT, change=Paired(0.021, 0.02)))),
    ("loss_change", judge_g4(replace(IMPACT, change=Paired(math.nan, math.nan)))),
    ("modules", judge_g5(replace(CLEAN, modules=1))),
    ("hooks", judge_g5(replace(CLEAN, hooks=1))),
    ("tensors", judge_g5(replace(CLEAN, tensors=1))),
    ("alpha", judge_g5(replace(CLEAN, alpha=0.1))),
    ("isolation_violations", judge_g5(replace(CLEAN, isolation_violations=1))),
    ("counters", judge_g5(replace(CLEAN, counters=1))),
]


@pytest.mark.requirement("R-KAS-6", "R-KAS-7")
@pytest.mark.parametrize(("figure", "verdict"), FAILING, ids=[f"{v.gate}-{name}" for name, v in FAILING])
def test_one_bad_figure_fails_and_is_named(figure, verdict):
    assert not verdict.passed
    assert verdict.reason.startswith(f"{figure} is ")


def test_a_clock_culls_nothing():
    """Ruling 29: the latency is told, whatever it is."""
    verdict = judge_g2(replace(BLENDED, latency_ms=1e4))
    (told,) = [each for each in verdict.measurements if each.name == "kernel_latency_ms"]

    assert verdict.passed
    assert (told.value, told.HasField("limit")) == (1e4, False)


NEXT_TO_NOTHING = 1e-12
AT_THE_LIMIT = [
    # figure, whether the limit itself passes, the verdict at the limit, the verdict a little beyond it
    ("gradient_norm", False, lambda x: judge_g1(replace(LEARNT, gradient_norm=SETTINGS.min_gradient_norm + x)), +1),
    ("output_ratio", True, lambda x: judge_g1(replace(LEARNT, output_ratio=SETTINGS.max_output_ratio + x)), +1),
    ("trial_contribution", True, lambda x: judge_g1(replace(LEARNT, trial=Paired(-0.04 + x, 0.02))), -1),
    ("alpha", True, lambda x: judge_g2(replace(BLENDED, alpha=SETTINGS.min_blended_alpha + x)), -1),
    ("kernel_latency_ms", True, lambda x: judge_g2_then(replace(BLENDED, latency_ms=10.0 + x)), 1),
    ("output_ratio", True, lambda x: judge_g2(replace(BLENDED, output_ratio=SETTINGS.max_output_ratio + x)), +1),
    ("loss_drift", True, lambda x: judge_g2(replace(BLENDED, drift=Paired(3.0 * 0.02 + x, 0.02))), +1),
    ("repeat_error", True, lambda x: judge_g0(replace(FITS, repeat_error=1e-5 + x)), +1),
    ("identity_error", True, lambda x: judge_g0(replace(FITS, identity_error=1e-5 + x)), +1),
    ("contribution", True, lambda x: judge_g3(impact=replace(NEUTRAL, contribution=Paired(-0.025 + x, 0.01))), -1),
    ("contribution", False, lambda x: judge_g4(replace(IMPACT, contribution=Paired(0.02 + x, 0.02))), +1),
    ("loss_change", True, lambda x: judge_g4(replace(IMPACT, change=Paired(0.02 + x, 0.02))), +1),
]


@pytest.mark.parametrize(("figure", "passes", "judge", "beyond"), AT_THE_LIMIT)
def test_a_limit_passes_or_fails_exactly_where_the_gate_says(figure, passes, judge, beyond):
    """A figure that must lie above its limit fails at the limit; every other one passes there and fails beyond it."""
    at_it, past_it = judge(0.0), judge(beyond * NEXT_TO_NOTHING)

    assert at_it.passed == passes
    assert past_it.passed != passes
    for verdict in (at_it, past_it):
        assert verdict.passed or verdict.reason.startswith(f"{figure} is ")


def test_a_drift_counts_from_3_standard_errors_or_5_percent_of_the_loss():
    """Both must be passed, as for harm."""
    for mean, stderr, passes in (
        (0.024, 0.001, True),
        (0.026, 0.001, False),
        (0.059, 0.02, True),
        (0.061, 0.02, False),
    ):
        assert judge_g2(replace(BLENDED, drift=Paired(mean, stderr))).passed == passes


@pytest.mark.requirement("R-KAS-8")
def test_acceptance_asks_for_both_dependence_and_no_regression():
    """Either half alone is not enough: `g4_system_impact` says why."""
    depends_but_worse = Impact(contribution=Paired(1.0, 0.01), change=Paired(0.1, 0.01), loss_now=1.0)
    better_without_help = Impact(contribution=Paired(0.0, 0.01), change=Paired(-0.5, 0.01), loss_now=0.1)
    assert not judge_g4(depends_but_worse).passed
    assert not judge_g4(better_without_help).passed


def test_harm_counts_from_2_standard_errors_or_5_percent_of_the_loss():
    """Both must be passed: a harm of next to nothing is none, however sure, and an unsure one is none either."""
    for mean, stderr, passes in ((-0.024, 0.001, True), (-0.026, 0.001, False), (-0.039, 0.02, True)):
        assert judge_g1(replace(LEARNT, trial=Paired(mean, stderr))).passed == passes
        assert judge_g3(impact=replace(NEUTRAL, contribution=Paired(mean, stderr))).passed == passes


def test_the_limits_of_acceptance_are_standard_errors():
    limits = {m.name: m.limit for m in judge_g4(IMPACT).measurements if m.HasField("limit")}
    assert limits["contribution"] == pytest.approx(SETTINGS.benefit_z * 0.02)
    assert limits["loss_change"] == pytest.approx(SETTINGS.regression_z * 0.02)


def test_a_module_without_parameters_owes_no_gradient():
    assert judge_g1(replace(LEARNT, parameters=0, gradient_norm=0.0)).passed


def test_a_module_that_claims_no_identity_is_not_held_to_it():
    assert judge_g0(replace(FITS, identity_error=None)).passed
