"""Which decisions of a run are left, and which actions are tried there: the draws depend on the run's place alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from esper.errors import InvalidInput
from esper.simic.rollouts import Decided
from esper.tamiyo.actions import EVERYTHING, legal_actions
from esper.tamiyo.policies.merit import merits
from esper.tamiyo.policies.where import survey
from esper.tolaria.fork_change import read_change

NOTHING: Final = "nothing"
AS_IT_IS: Final = "adjust x1"
_LIVE: Final = 100.0
_RATES: Final = 50.0


@dataclass(frozen=True, slots=True)
class Tried:
    """An action that is tried; `drawn` where chance alone picked it among all that are legal.

    The mean over those is what a policy is worth that acts at random.
    """

    action: str
    drawn: bool = False


def choose_states(decisions: Sequence[Decided], count: int, place: str) -> list[Decided]:
    """Up to `count` decisions with a choice, in order: half of them, where there are, such as the run acted at."""
    chance = random.Random(f"states {place}")
    open_ = [each for each in decisions if len(_forkable(each.legal)) > 1 and not _last(each)]
    open_ = [each for each in open_ if _forkable([each.chosen])]  # a fork that is exact takes the run's own action too
    acting = [each for each in open_ if each.chosen != NOTHING]
    chosen = chance.sample(acting, min(len(acting), (count + 1) // 2))
    others = [each for each in open_ if each.chosen == NOTHING]
    chosen += chance.sample(others, min(len(others), count - len(chosen)))
    return sorted(chosen, key=lambda each: each.packet.sequence)


def choose_actions(decided: Decided, most: int, place: str) -> list[Tried]:
    """Up to `most` legal actions: nothing and the one that was taken; of the rest half by chance, then by merit.

    Also such as the run's own policy could not take: all that the trainer can carry out. To leave the rates as they are
    is nothing.
    """
    chance = random.Random(f"actions {place}")
    others = [action for action in _forkable(_legal(decided)) if action not in {NOTHING, AS_IT_IS}]
    drawn = set(chance.sample(others, min(len(others), max(1, (most - 2) // 2))))
    worth = merit_of_actions(decided)
    ranked = sorted(others, key=lambda action: -worth.get(action, 0.0))
    kept = dict.fromkeys([NOTHING, decided.chosen, *(each for each in others if each in drawn), *ranked])
    return [Tried(action, action in drawn) for action in list(kept)[:most]]


def _legal(decided: Decided) -> list[str]:
    """What its own policy could do, then what else could be done."""
    everything = zip(*legal_actions(decided.observation, EVERYTHING), strict=True)
    further = (str(action) for action, legal in everything if legal and action.kind == "adjust")
    return list(dict.fromkeys([*decided.legal, *further]))


def merit_of_actions(decided: Decided) -> dict[str, float]:
    """The heuristic's own score of every germination, whether or not it is time for one; a live seed's come first.

    Then the learning rates'.
    """
    state = decided.observation
    standings = survey(state).standings
    worths = {site.seed_id: merits(site) for site in state.sites}
    found = dict[str, float]()
    for action in legal_actions(state, EVERYTHING)[0]:
        there = standings.get(action.seed_id)
        if action.kind == "adjust":
            found[str(action)] = _RATES
        elif action.kind != "germinate":
            found[str(action)] = _LIVE
        elif there is not None:
            found[str(action)] = there.score(worths[action.seed_id][action.blueprint_id].score)
    return found


def _forkable(actions: Sequence[str]) -> list[str]:
    """Those of the actions that a fork can take; nothing is the first."""
    found = []
    for action in actions:
        try:
            read_change(action)
        except InvalidInput:
            continue
        found.append(action)
    return found


def _last(decided: Decided) -> bool:
    state = decided.observation
    return state.state.current_epoch >= state.epochs_total - 1
