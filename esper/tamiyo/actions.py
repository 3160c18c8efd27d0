"""What Tamiyo may do after an epoch: every action that the state suggests, and a mask of those that are legal now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from contracts.leyline.v1.event_pb2 import BlueprintOption, EpochCompleted
from contracts.leyline.v1.leyline_pb2 import BSDS
from esper.karn.risk_sheet import Consequence, consequence
from esper.kasmina.lifecycle import ALIVE, DORMANT, PROBATIONARY

Kind = Literal["nothing", "germinate", "cull", "fossilize", "adjust", "pause"]
"""`adjust` and `pause` are what a risk data sheet makes of a germination: the optimiser's turn, or nobody's."""


@dataclass(frozen=True, slots=True)
class Action:
    """One possible action. `parameters`, `risk` and `sheet` are the blueprint's, for germinate alone.

    `sheet` is what its risk data sheet asks for.
    """

    kind: Kind
    seed_id: str = ""
    blueprint_id: str = ""
    parameters: int = 0
    risk: float = 0.0
    sheet: Consequence = "none"

    def __str__(self) -> str:
        return " ".join(part for part in (self.kind, self.seed_id, self.blueprint_id) if part)


NOTHING = Action("nothing")
"""Always the first action and always legal."""


def legal_actions(state: EpochCompleted) -> tuple[list[Action], list[bool]]:
    """All actions in a fixed order (nothing, then seed by seed in site order) and which of them are legal.

    Germinate needs a DORMANT slot without embargo, a blueprint that fits in what is left of the parameter budget and
    an epoch left to learn in; fossilize a PROBATIONARY seed whose dwell is over; cull a seed that has yet to prove
    itself. Nothing grows where a proof failed, nor in `swift` what is larger than its host.
    """
    observed = {seed.seed_id: seed for seed in state.seeds}
    budget_left = state.params_budget - max(0, state.params - state.params_host)
    largest = state.params_host if state.lifecycle == "swift" else budget_left
    epochs_left = state.epochs_total - state.state.current_epoch
    actions, mask = [NOTHING], [True]
    for site in state.sites:
        seed = observed.get(site.seed_id)
        if seed is None:
            continue
        if seed.stage == DORMANT:
            free = seed.epochs_until_free == 0 and epochs_left > 0 and not seed.closed
            for option in site.options:
                actions.append(_germinate(site.seed_id, option))
                mask.append(free and option.parameters <= min(budget_left, largest))
        elif seed.stage in ALIVE:
            actions += [Action("cull", site.seed_id), Action("fossilize", site.seed_id)]
            mask += [True, seed.stage == PROBATIONARY and seed.gate_ready]
    return actions, mask


def _germinate(seed_id: str, option: BlueprintOption) -> Action:
    """Growing `option` there; an option without a band and a class has no sheet."""
    sheet = BSDS(hazard_band=option.hazard_band, handling_class=option.handling_class)
    asked = consequence(sheet if option.hazard_band or option.handling_class else None)
    return Action("germinate", seed_id, option.blueprint_id, option.parameters, option.risk, asked)
