"""Which blueprints of a site are worth choosing among: those that no other is at least as good as in everything.

Three objectives, each larger is better, 0 to 1: performance (the merit for the site's shape, moved by what became of
earlier seeds), safety (1 - risk, the risk data sheet's band where that is worse), adaptability (how little of the
budget it takes; of equals one that begins as the identity). Policy sheet 1.8, R-TAM-63.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contracts.leyline.v1.event_pb2 import BlueprintOption, SiteDescription
from esper.tamiyo.policies.merit import merits

WEIGHTS: Final = (0.5, 0.3, 0.2)
"""Of performance, safety and adaptability."""
_BAND_RISK: Final = {0: 0.0, 1: 0.0, 2: 0.30, 3: 0.60, 4: 0.85}
"""The least risk that a hazard band stands for, by its number."""
_LARGEST: Final = math.log1p(1e9)

Objectives = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one option: its objectives, their weighted sum, and whether another dominates it."""

    objectives: Objectives
    score: float
    dominated: bool


def standings(site: SiteDescription) -> dict[str, Standing]:
    """Every option of a site, by blueprint id."""
    worths = merits(site)
    found = [_objectives(option, worths[option.blueprint_id].merit) for option in site.options]
    beaten = dominated(found)
    return {
        option.blueprint_id: Standing(each, sum(w * v for w, v in zip(WEIGHTS, each, strict=True)), worse)
        for option, each, worse in zip(site.options, found, beaten, strict=True)
    }


def dominated(objectives: Sequence[Objectives]) -> list[bool]:
    """Of each whether some other is at least as good in everything and better in something."""
    return [
        any(other != each and all(o >= e for o, e in zip(other, each, strict=True)) for other in objectives)
        for each in objectives
    ]


def _objectives(option: BlueprintOption, merit: float) -> Objectives:
    risk = max(option.risk if math.isfinite(option.risk) else 1.0, _BAND_RISK.get(option.hazard_band, 0.85))
    cost = math.log1p(option.parameters + option.flops_per_sample / 1000.0) / _LARGEST
    adaptable = 0.9 * (1.0 - min(1.0, cost)) + (0.1 if option.residual else 0.0)
    return merit, 1.0 - min(1.0, risk), adaptable
