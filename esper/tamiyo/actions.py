"""What Tamiyo may do after an epoch: every action that the state suggests, and a mask of those that are legal now."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from contracts.leyline.v1.event_pb2 import BlueprintOption, EpochCompleted, SiteDescription
from contracts.leyline.v1.leyline_pb2 import BSDS
from esper.karn.risk_sheet import Consequence, consequence
from esper.kasmina.lifecycle import ALIVE, DORMANT, PROBATIONARY

SIZES: Final = (1.0, 0.5, 0.25)
"""By how much of its units a layer may become wider at once; the first that fits is taken. Doubling was as good as
eight small steps, and nothing was better (docs/log.md)."""
Kind = Literal[
    "nothing",
    "germinate",
    "cull",
    "fossilize",
    "adjust",
    "pause",
    "advance",
    "hold",
    "breaker_open",
    "breaker_close",
    "rollback",
]
"""`adjust` and `pause` are also what a risk data sheet makes of a germination: the optimiser's turn, or nobody's.
`rollback` is nothing that a policy may choose: the risk engine asks for it."""
SEEDS_ONLY: Final = 0
EVERYTHING: Final = 1
"""Action sets: germinate, cull and fossilize; and all of R-TAM-17, behind the first in their order."""
RATES: Final = (0.5, 1.0, 2.0)
"""What a policy may make of all learning rates: shares of what they would be had nobody told anything."""


@dataclass(frozen=True, slots=True)
class Action:
    """One possible action. `parameters`, `risk` and `sheet` are the blueprint's, for germinate alone.

    `sheet` is what its risk data sheet asks for; `size`, of a layer that becomes wider, the new units as a share of
    those that it has, and of an `adjust` without a seed the share that all learning rates become.
    """

    kind: Kind
    seed_id: str = ""
    blueprint_id: str = ""
    parameters: int = 0
    risk: float = 0.0
    sheet: Consequence = "none"
    size: float = 1.0

    def __str__(self) -> str:
        of_rates = self.kind == "adjust" and not self.seed_id
        size = f"x{self.size:g}" if self.size != 1.0 or of_rates else ""
        return " ".join(filter(None, (self.kind, self.seed_id, self.blueprint_id, size)))


NOTHING = Action("nothing")
"""Always the first action and always legal."""


def legal_actions(state: EpochCompleted, action_set: int = SEEDS_ONLY) -> tuple[list[Action], list[bool]]:
    """All actions in a fixed order (nothing, then seed by seed in site order) and which of them are legal.

    With EVERYTHING, which the trainer must be able to carry out (`state.action_set`), these are followed by advance and
    hold of every seed that has yet to prove itself, `adjust` of all learning rates, the growth breaker, and a pause.

    Germinate needs a DORMANT slot without embargo that is not closed, a blueprint that fits in what is left of the
    parameter budget and an epoch left to learn in; fossilize a PROBATIONARY seed whose dwell is over; cull a seed that
    has yet to prove itself.
    """
    observed = {seed.seed_id: seed for seed in state.seeds}
    room, blocked = room_for_one(state), _blocked(state)
    epochs_left = state.epochs_total - state.state.current_epoch
    actions, mask = [NOTHING], [True]
    for site in state.sites:
        seed = observed.get(site.seed_id)
        if seed is None:
            continue
        if seed.stage == DORMANT:
            free = seed.epochs_until_free == 0 and epochs_left > 0 and not seed.closed and site.seed_id not in blocked
            sized = room if site.HasField("width") else 0  # nothing else has a size that depends on the room
            grown = germinations(site.SerializeToString(deterministic=True), sized)
            actions += grown
            mask += [free and action.parameters <= room for action in grown]
        elif seed.stage in ALIVE:
            actions += [Action("cull", site.seed_id), Action("fossilize", site.seed_id)]
            mask += [True, seed.stage == PROBATIONARY and seed.gate_ready]
    if min(action_set, state.action_set) >= EVERYTHING:
        further, legal = _further(state)
        actions += further
        mask += legal
    return actions, mask


def _further(state: EpochCompleted) -> tuple[list[Action], list[bool]]:
    """The actions of EVERYTHING that SEEDS_ONLY lacks."""
    actions, mask = list[Action](), list[bool]()
    for seed in state.seeds:
        if seed.stage in ALIVE:
            by_itself = seed.stage != PROBATIONARY or state.lifecycle == "swift"
            actions += [Action("advance", seed.seed_id), Action("hold", seed.seed_id)]
            mask += [seed.held or (by_itself and not seed.gate_ready), not seed.held]
    actions += [Action("adjust", size=share) for share in RATES]
    mask += [True for _ in RATES]
    actions += [Action("breaker_open"), Action("breaker_close"), Action("pause")]
    mask += [not state.conservative, state.conservative, not state.conservative]
    return actions, mask


def _blocked(state: EpochCompleted) -> set[str]:
    """Places at which nothing may grow now, because what a seed works on there would become wider under it.

    Of a layer that can become wider and a place between it and its consumer, one at most may hold a module.
    """
    holding = {seed.seed_id for seed in state.seeds if seed.parameters or seed.stage in ALIVE}
    blocked = set[str]()
    for site in state.sites:
        if site.seed_id in holding:
            blocked.update(site.width.between)
        elif not holding.isdisjoint(site.width.between):
            blocked.add(site.seed_id)
    return blocked


def room_for_one(state: EpochCompleted) -> int:
    """Parameters that one more seed may have: what is left of the budget, and in `swift` no more than its host has."""
    budget_left = state.params_budget - max(0, state.params - state.params_host)
    host = state.params - sum(seed.parameters for seed in state.seeds)
    return min(budget_left, max(host, 0)) if state.lifecycle == "swift" else budget_left


@lru_cache(maxsize=2048)
def germinations(described: bytes, room: int) -> tuple[Action, ...]:
    """Growing each option of a site, as large as fits in `room`; the same objects for the same description.

    Remembered, because a run describes its sites in the same bytes after every epoch, and waits for the answer.
    """
    site = SiteDescription.FromString(described)
    return tuple(_germinate(site, option, room) for option in site.options)


def _germinate(site: SiteDescription, option: BlueprintOption, room: int) -> Action:
    """Growing `option` there, as large as fits in `room`; an option without a band and a class has no sheet."""
    asked = _asked(option.hazard_band, option.handling_class)
    size, parameters = 1.0, option.parameters
    if site.HasField("width"):
        sizes = [(size, _parameters(site, option, size)) for size in SIZES]
        size, parameters = next((each for each in sizes if each[1] <= room), sizes[0])
    return Action("germinate", site.seed_id, option.blueprint_id, parameters, option.risk, asked, size)


@lru_cache(maxsize=64)
def _asked(hazard_band: int, handling_class: int) -> Consequence:
    """What a sheet with these two asks for: the same for most of an epoch's options, which the trainer waits for."""
    sheet = BSDS(hazard_band=hazard_band, handling_class=handling_class)  # type: ignore[arg-type]
    return consequence(sheet if hazard_band or handling_class else None)


def _parameters(site: SiteDescription, option: BlueprintOption, size: float) -> int:
    """What `option` has there at that size; at size 1 the packet says it."""
    group = max(1, site.width.group)
    units = group * max(1, round(size * site.width.units / group))
    return option.parameters if size == 1.0 else units * site.width.parameters_per_unit
