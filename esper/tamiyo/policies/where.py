"""Where the heuristic grows: along which axis, how strongly the loss pulls at each site, which of equals comes first.

Layers become wider where the host is narrow: where the effective rank of a layer's activation comes near its number of
units. That picked the right layer on every task tried (on two, doubling the first of two layers gave all of the gain
for 60 % of the cost of both). The first-order gain of a fresh candidate did not, neither between layers nor between
axes: it was largest for a residual block, which gained nothing. So it is told, and decides between equals alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from contracts.leyline.v1.event_pb2 import EpochCompleted, SiteDescription, SiteEvidence
from esper.kasmina.lifecycle import FOSSILIZED
from esper.tamiyo.policies.thresholds import SETTINGS, WIDTH

Axis = Literal["depth", "width"]

_SECOND: Final = 0.2
"""What the score of width counts where depth comes first: less than that of any module."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a site: its `pull`, 0 to 1 of the strongest of its axis, what else its score is made of, and that in words."""

    pull: float
    place: float
    weight: float
    words: str

    def score(self, worth: float) -> float:
        """The logit of growing something of that worth there."""
        return self.weight * (1.0 + 2.0 * self.pull + self.place + worth)


@dataclass(frozen=True, slots=True)
class Ground:
    """Every site's standing, by seed id; and what is said of the host where nothing fits."""

    standings: dict[str, Standing]
    words: str


def survey(state: EpochCompleted) -> Ground:
    """How the sites stand. Where nothing can become wider there is one axis, and the words are short."""
    rows = {row.seed_id: row for row in state.evidence}
    deep = [site for site in state.sites if not site.HasField("width")]
    layers = len({site.site for site in state.sites if site.HasField("width")})
    absorbed = {seed.seed_id for seed in state.seeds if seed.stage == FOSSILIZED}  # another slot is there instead
    wide = [site for site in state.sites if site.HasField("width") and site.seed_id not in absorbed]
    shares = {site.seed_id: _in_use(site, rows) for site in wide}
    first, words = _first_axis(deep, layers, shares)
    because = f"{words}; " if wide else ""
    pulls, narrowest = pull(state, deep), max(shares.values(), default=0.0)
    found: dict[str, Standing] = {}
    for site in deep:
        strength = pulls[site.seed_id] if first == "depth" else 0.0
        said = f"{because}site {site.site} has the strongest evidence ({strength:.2f}){_candidate(rows, site)}"
        found[site.seed_id] = Standing(strength, 0.1 * place(state, site), 1.0, said)
    for site in wide:
        share = shares[site.seed_id]
        narrow = share >= max(WIDTH.narrow_share, WIDTH.alike_units * narrowest)
        said = f"{because}site {site.site} uses {share:.0%} of its {site.width.units} units{_candidate(rows, site)}"
        weight = 1.0 if first == "width" else _SECOND
        found[site.seed_id] = Standing(1.0 if narrow else 0.0, 0.1 * place(state, site), weight, said)
    return Ground(found, words)


def _first_axis(
    deep: Sequence[SiteDescription], layers: int, shares: dict[str, float]
) -> tuple[Axis | Literal[""], str]:
    """The axis to grow along first, and why; empty where neither is worth it. Only width follows as the second one."""
    if not layers:
        return "depth", ""
    if any(site.shape_kind == "token" for site in deep):
        return "depth", "in a transformer a block more comes first"
    if deep and layers <= WIDTH.shallow_layers:
        return "depth", f"the host is shallow: {layers} layer of its own"
    narrowest = max(shares.values(), default=0.0)
    if narrowest >= WIDTH.narrow_share:
        return "width", f"the host is narrow: its layers use up to {narrowest:.0%} of their units"
    return "", f"the host is wide enough: its layers use {narrowest:.0%} of their units at most"


def _in_use(site: SiteDescription, rows: dict[str, SiteEvidence]) -> float:
    """The effective rank of a layer's activation as a share of its units, 1 at most; 0 where it is not known.

    The units of a seed that lives there count in the rank and not among the units: the layer is as narrow as it was
    until they have proven themselves, and layers that are not have to wait.
    """
    rank = rows[site.seed_id].activation_rank if site.seed_id in rows else 0.0
    share = rank / max(1, site.width.units)
    return min(1.0, share) if math.isfinite(share) else 0.0


def _candidate(rows: dict[str, SiteEvidence], site: SiteDescription) -> str:
    row = rows.get(site.seed_id)
    known = row is not None and row.HasField("candidate_descent")
    return f" (the first step of a fresh candidate would gain {row.candidate_descent:.2g})" if row and known else ""


def pull(state: EpochCompleted, sites: Collection[SiteDescription]) -> dict[str, float]:
    """How strongly the loss pulls at each of the sites, 0 to 1 of the strongest of them, halved by every cull there.

    The measure is |gradient| * |activation|: the change of the loss for a relative change of the activation, which does
    not depend on the scale that a layer happens to work at. Sites that are nearly as strong count as equal.
    """
    ids = {site.seed_id for site in sites}
    products = {row.seed_id: row.gradient_norm * row.activation_norm for row in state.evidence if row.seed_id in ids}
    strongest = max((value for value in products.values() if math.isfinite(value)), default=0.0)
    shares = {seed_id: value / strongest if strongest > 0.0 else 1.0 for seed_id, value in products.items()}
    culls = {seed.seed_id: seed.culls for seed in state.seeds}
    return {
        site.seed_id: _levelled(shares.get(site.seed_id, 0.0), site) * 0.5 ** culls.get(site.seed_id, 0)
        for site in sites
    }


def _levelled(share: float, site: SiteDescription) -> float:
    alike = SETTINGS.alike_tokens if site.shape_kind == "token" else SETTINGS.alike
    if not math.isfinite(share):
        return 0.0
    return 1.0 if share >= alike else max(0.0, share)


def place(state: EpochCompleted, site: SiteDescription) -> float:
    """Which of two sites with equal evidence comes first, 0 to 1.

    Over tokens the later one: a block on top of a residual stream keeps what the blocks below it have learnt. Elsewhere
    the earlier one: what it adds reaches every layer after it.
    """
    deepest = max(1, *(other.depth for other in state.sites))
    return site.depth / deepest if site.shape_kind == "token" else 1.0 - site.depth / deepest
