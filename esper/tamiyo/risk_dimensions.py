"""The adaptive part of the risk engine: three dimensions of a run's state, from one epoch's figures to the next.

Pure: what it remembers comes in the observation (`RiskMemory`) and leaves with the decision; the trainer carries it.
Base, emergency limit, weight and factor of a dimension are the original's. Its fourth, latency, is left out and the
weights are renormalised: a clock never decides (ruling 29). An epoch is a window. What no source says is said here: the
cuts of the levels (`LEVELS`), and that a failure is a probe loss that rose beyond its noise or is no number.

Requirements R-TAM-22 to 27 and R-TAM-39.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contracts.leyline.v1.event_pb2 import EpochCompleted, RiskMemory
from esper.kasmina.lifecycle import ALIVE
from esper.tamiyo.actions import Action
from esper.tamiyo.risk import memory_in_use, variance_about_trend


@dataclass(frozen=True, slots=True)
class Dimension:
    """`base` scores 0 and `emergency` 1; `factor` is what a calm run makes of the base every ten epochs."""

    name: str
    base: float
    emergency: float
    weight: float
    factor: float


DIMENSIONS: Final = (
    Dimension("gradient", 5.0, 20.0, 0.30, 1.2),
    Dimension("memory", 0.80, 0.95, 0.25, 0.9),
    Dimension("stability", 0.10, 0.50, 0.20, 1.3),
)
TOTAL_WEIGHT: Final = math.fsum(each.weight for each in DIMENSIONS)
LEVELS: Final = (0.2, 0.4, 0.6, 0.8)
"""Scores from which on a state is yellow, orange, red and critical."""
WINDOWS: Final = 3
"""Epochs in a row out of bounds before a dimension counts (R-TAM-25)."""
TUNE_EPOCHS: Final = 10
BOUNDS: Final = (0.5, 2.0)
"""Thresholds stay within these shares of their base (R-TAM-24)."""
LEAST_CHANGE: Final = 0.01
MEMORY_BLOCKS: Final = 0.85
VARIANCE_WARNS: Final = 0.3
GRADIENT_WARNS: Final = 10.0
ROLLBACK_SCORE: Final = 0.9
EMERGENCY_SCORE: Final = 0.8
CALIBRATION_WINDOW: Final = 1_000
CALIBRATION_LEAST: Final = 100
CALIBRATION_ACCURACY: Final = 0.90
PREDICTS_FAILURE: Final = 3
"""The level from which on a decision counts as made in expectation of a failure."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the dimensions look at, in their order, and the thresholds that hold now."""

    values: tuple[float, float, float]
    thresholds: tuple[float, ...]
    scores: tuple[float, ...]
    counted: tuple[float, ...]
    """The scores of those that are out of bounds for long enough; 0 for all others."""
    out_of_bounds: tuple[int, ...]

    @property
    def score(self) -> float:
        """The weighted sum of what counts, 0 to 1."""
        weighted = (each.weight * score for each, score in zip(DIMENSIONS, self.counted, strict=True))
        return math.fsum(weighted) / TOTAL_WEIGHT

    @property
    def level(self) -> int:
        """0 green, 1 yellow, 2 orange, 3 red, 4 critical."""
        return level_of(self.score)


def level_of(score: float) -> int:
    """The level of a score from 0 to 1."""
    return sum(score >= cut - 1e-9 for cut in LEVELS)  # a weight of 0.3 in 0.75 is a float below 0.4


def scored(value: float, threshold: float, emergency: float, factor: float = 1.0) -> float:
    """0 up to the threshold, 1 from the emergency limit on, linear between, times `factor`, at most 1 (R-TAM-22).

    A value that is no number counts as an emergency.
    """
    if not math.isfinite(value) or value >= emergency:
        return 1.0
    if value <= threshold:
        return 0.0
    return min(1.0, factor * (value - threshold) / (emergency - threshold))


def figures(state: EpochCompleted, wanted: Action, memory: RiskMemory) -> Figures:
    """The dimensions of this epoch's state with what is wanted of it."""
    values = (
        state.state.training_metrics.get("gradient_norm", 0.0),
        memory_in_use(state),
        variance_about_trend(state.probe_loss_history),
    )
    thresholds = tuple(memory.thresholds) or tuple(each.base for each in DIMENSIONS)
    factor = adaptation_factor(state, wanted)
    rows = tuple(zip(DIMENSIONS, values, thresholds, strict=True))
    scores = tuple(scored(value, threshold, each.emergency, factor) for each, value, threshold in rows)
    before = tuple(memory.out_of_bounds) or (0,) * len(DIMENSIONS)
    windows = tuple(count + 1 if score > 0.0 else 0 for count, score in zip(before, scores, strict=True))
    counted = tuple(score if count >= WINDOWS else 0.0 for score, count in zip(scores, windows, strict=True))
    return Figures(values, thresholds, scores, counted, windows)


def adaptation_factor(state: EpochCompleted, wanted: Action) -> float:
    """How much riskier a state is for what is wanted of it: 1 or more; sheet 1.6.

    A changed architecture 1.3; parameters 1.001 for each hundredth of the host's that they are; an experimental
    blueprint (a risk above one half) 1.3; a learning rate more than doubled 1.5, below a tenth 1.2; more than three
    seeds that have yet to prove themselves 1.4.
    """
    factor = 1.0
    if wanted.kind == "germinate":
        factor *= 1.3 * (1.0 + 0.001 * 100.0 * wanted.parameters / max(1, state.params_host))
        factor *= 1.3 if wanted.risk > 0.5 else 1.0
    if wanted.kind == "adjust" and not wanted.seed_id:
        factor *= 1.5 if wanted.size > 2.0 else 1.2 if wanted.size < 0.1 else 1.0
    if sum(seed.stage in ALIVE for seed in state.seeds) > 3:
        factor *= 1.4
    return factor


# ---------------------------------------------------------------------------------------------- emergencies, pre-checks


def prechecks(found: Figures) -> list[tuple[str, float, float, bool]]:
    """What is wrong with the figures before any score: name, value, limit, and whether it blocks (R-TAM-27)."""
    gradient, memory, variance = found.values
    rows = (
        ("memory in use", memory, MEMORY_BLOCKS, True),
        ("probe loss variance", variance, VARIANCE_WARNS, False),
        ("gradient norm", gradient, GRADIENT_WARNS, False),
    )
    return [row for row in rows if not row[1] <= row[2]]


def emergency(found: Figures) -> str:
    """What an emergency asks for, `pause`, `rollback` or `conservative`; empty where there is none (R-TAM-26)."""
    blocked = any(blocks for _, _, _, blocks in prechecks(found))
    many = sum(score > EMERGENCY_SCORE for score in found.counted) >= 3
    if not (found.level >= 4 or many or blocked):
        return ""
    gradient, memory, _ = found.counted
    if blocked or max(gradient, memory) > ROLLBACK_SCORE:
        return "rollback"
    return "pause" if found.level >= 4 else "conservative"


# ---------------------------------------------------------------------------------------------------------- thresholds


def tuned(thresholds: Sequence[float], stability: float) -> list[float]:
    """The thresholds ten epochs on: wider where the run was calm, narrower where it was not, 50 to 200 % of base.

    `stability` above 0.8 takes a dimension's whole factor, above 0.6 half of the way to it; below that all are 0.95 of
    what they were. Changes of a hundredth or less are none.
    """
    after = []
    for each, threshold in zip(DIMENSIONS, thresholds, strict=True):
        factor = each.factor if stability > 0.8 else 1.0 + 0.5 * (each.factor - 1.0) if stability >= 0.6 else 0.95
        wished = min(max(threshold * factor, BOUNDS[0] * each.base), BOUNDS[1] * each.base)
        after.append(wished if abs(wished - threshold) > LEAST_CHANGE else threshold)
    return after


def stability_score(variance: float, gradient_norm: float, accuracy_gain: float) -> float:
    """How calm a run is, 0 to 1: half its loss's variance, three tenths its gradients, two tenths what it gained."""
    if not (math.isfinite(variance) and math.isfinite(gradient_norm)):
        return 0.0
    gain = min(10.0 * accuracy_gain, 1.0) if math.isfinite(accuracy_gain) else 0.0
    return 0.5 * (1.0 - min(variance, 1.0)) + 0.3 / (1.0 + gradient_norm / 10.0) + 0.2 * max(gain, 0.0)


# --------------------------------------------------------------------------------------------------------- calibration


@dataclass(frozen=True, slots=True)
class Calibration:
    """How often the levels were right about the epoch after; `accuracy` is None for fewer than 100 outcomes."""

    outcomes: int
    accuracy: float | None

    @property
    def recalibrate(self) -> bool:
        """Whether the levels are wrong too often (R-TAM-39)."""
        return self.accuracy is not None and self.accuracy < CALIBRATION_ACCURACY


def calibration(memory: RiskMemory) -> Calibration:
    """The share of the last 1,000 outcomes that the levels had said."""
    count = memory.outcomes
    if count < CALIBRATION_LEAST:
        return Calibration(count, None)
    wrong = sum((a ^ b).bit_count() for a, b in zip(memory.predicted, memory.failed, strict=True))
    return Calibration(count, 1.0 - wrong / count)


def note_outcome(memory: RiskMemory, *, predicted: bool, failed: bool) -> None:
    """Add an outcome to a memory; the oldest leaves a window that is full."""
    keep = CALIBRATION_WINDOW - 1
    for name, said in (("predicted", predicted), ("failed", failed)):
        bits = int.from_bytes(getattr(memory, name), "big") & ((1 << keep) - 1)
        count = min(memory.outcomes, keep) + 1
        setattr(memory, name, (bits << 1 | said).to_bytes((count + 7) // 8, "big"))
    memory.outcomes = min(memory.outcomes, keep) + 1


def failed_since(state: EpochCompleted) -> bool | None:
    """Whether the last epoch was a failure; None where there is none before it to compare with."""
    history = state.probe_loss_history
    if len(history) < 2:
        return None
    rise = history[-1] - history[-2]
    return not rise <= 2.0 * state.probe_loss_stderr
