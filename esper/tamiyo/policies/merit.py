"""How good a blueprint is for a site: its merit by shape, corrected by what became of its earlier seeds, then its cost.

Merit comes first. Cost never buys a worse blueprint: of those with equal merit at a site the one with fewer FLOPs
comes first, then fewer parameters, less risk, the earlier stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from contracts.leyline.v1.event_pb2 import BlueprintOption, BlueprintOutcomes, SiteDescription
from contracts.leyline.v1.leyline_pb2 import BlueprintTier


@dataclass(frozen=True, slots=True)
class Settings:
    """How earlier seeds count. A life is over when its seed was kept (fossilized) or culled."""

    enough_lives: int = 20
    """Lives that must be over before they count at all: fewer must not change what the same seed gives again."""
    prior_lives: int = 20
    """So many lives, kept as expected, are added to those that were: after 20 the past counts half, after 60 three
    quarters."""
    expected_kept: float = 0.5
    """A blueprint that is kept as often as this is as good as the table says; measured were 56 to 90 % of the default's
    seeds, so a good one does not lose by its past."""
    loss_rose: float = 0.1
    """Merit lost where the reports say that the probe loss rose, beyond two standard errors of their mean."""
    step: float = 0.05
    """Merits are equal where they are the same in steps of this."""


SETTINGS: Final = Settings()

BLUEPRINT_MERIT: Final[dict[str, dict[str, float]]] = {
    "image": {"BP009": 1.0, "BP060": 0.85, "BP062": 0.8, "BP061": 0.75, "BP013": 0.45, "BP015": 0.4},
    "signal": {"BP009": 1.0, "BP060": 1.0, "BP062": 0.6, "BP061": 0.6, "BP013": 0.45, "BP015": 0.4},
    "vector": {"BP009": 1.0, "BP062": 0.8, "BP021": 0.5, "BP008": 0.3},
    "token": {"BP023": 1.0, "BP009": 0.9, "BP021": 0.5},
    "width": {"BP051": 1.0},
}
"""How good a blueprint is for a site's shape, or for a layer that can become wider, 0 to 1, by what was measured in
docs/log.md. A signal is an image one pixel wide or high. One that is not named has not shown merit and does not grow,
until its outcomes show some. BP013 and BP015 had 0.4 both: with BP015, which is cheaper, a second seed of digits ended
0.0048 ± 0.0017 worse in probe loss for 2 % less work (11 pairs). BP060 to BP062 have the share of BP009's gain that one
seed of theirs had, on digits, spirals and m1d_cnn; they are for hosts that BP009 is too large for."""

_PLACE: Final = 1e-3
"""What a place further back among equals costs: all of a site's options together less than one step of merit."""


@dataclass(frozen=True, slots=True)
class Merit:
    """Of one option: its merit in 0..1, and its place among those with the same merit."""

    option: BlueprintOption
    merit: float
    place: int

    @property
    def score(self) -> float:
        """What it adds to an action's logit."""
        return self.merit - _PLACE * self.place


def merits(site: SiteDescription) -> Mapping[str, Merit]:
    """The merit of every option of a site, by blueprint id."""
    return _merits(site.SerializeToString(deterministic=True))


@lru_cache(maxsize=256)
def _merits(described: bytes) -> Mapping[str, Merit]:
    """Remembered, because a run describes its sites in the same bytes after every epoch, and waits for the answer."""
    site = SiteDescription.FromString(described)
    wider = "heads" if site.width.sections > 1 else "width"
    kind = wider if site.HasField("width") else _form(site)
    found = {option.blueprint_id: merit_of(option, kind) for option in site.options}
    places: dict[float, int] = {}
    ordered = dict[str, Merit]()
    for option in sorted(site.options, key=_cost):
        merit = found[option.blueprint_id]
        place = places.get(merit, 0)
        places[merit] = place + 1
        ordered[option.blueprint_id] = Merit(option, merit, place)
    return ordered


def _form(site: SiteDescription) -> str:
    """The kind of the site's shape, where an image of one row or one column is a signal."""
    signal = site.shape_kind == "image" and 1 in site.shape[1:] and max(site.shape[1:]) > 1
    return "signal" if signal else site.shape_kind


def merit_of(option: BlueprintOption, shape_kind: str) -> float:
    """The table's merit, moved by the outcomes as far as their number allows, in steps of `Settings.step`.

    Kept less often than expected it loses that share of it, kept more often it gains the difference.
    """
    merit = BLUEPRINT_MERIT.get(shape_kind, {}).get(option.blueprint_id, 0.0)
    outcomes = option.outcomes
    over = outcomes.fossilized + outcomes.culled
    if over >= SETTINGS.enough_lives:
        prior, expected = SETTINGS.prior_lives, SETTINGS.expected_kept
        kept = (outcomes.fossilized + prior * expected) / (over + prior)
        merit = merit * min(1.0, kept / expected) + max(0.0, kept - expected)
        clear = math.isfinite(outcomes.loss_delta_mean) and outcomes.loss_delta_mean > 2.0 * outcomes.loss_delta_stderr
        rose = clear and outcomes.reports >= SETTINGS.enough_lives
        merit -= SETTINGS.loss_rose if rose else 0.0
    return SETTINGS.step * round(min(max(merit, 0.0), 1.0) / SETTINGS.step)


def _cost(option: BlueprintOption) -> tuple[int, int, float, int, str]:
    return option.flops_per_sample, option.parameters, option.risk, option.stage, option.blueprint_id


def why(worth: Merit, shape_kind: str, size: float = 1.0) -> str:
    """What speaks for an option, in words; at `size` times its default one."""
    option = worth.option
    tier = BlueprintTier.Name(option.tier).removeprefix("BLUEPRINT_TIER_").lower().replace("_", "-")
    parameters, flops = round(size * option.parameters), round(size * option.flops_per_sample)
    return (
        f"for {parameters:,} parameters and {flops:,} FLOPs a sample "
        f"(merit {worth.merit:.2f}, risk {option.risk:.2f}, {tier} tier, stage {option.stage}; "
        f"{_past(option.outcomes, shape_kind)})"
    )


def _past(outcomes: BlueprintOutcomes, shape_kind: str) -> str:
    over = outcomes.fossilized + outcomes.culled
    if not over:
        return f"no earlier life at {shape_kind} sites is known"
    told = f"{outcomes.fossilized} of {over} earlier lives at {shape_kind} sites were kept"
    if over < SETTINGS.enough_lives:
        return f"{told}, too few to count"
    mean, stderr = outcomes.loss_delta_mean, outcomes.loss_delta_stderr
    return told + (f", loss change {mean:+.3f} ± {stderr:.3f}" if outcomes.reports else "")
