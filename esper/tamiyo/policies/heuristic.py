"""The heuristic policy: grow early, where the loss pulls hardest, and only a network that needs it.

A live seed is looked after first. A network that still has time and still errs grows along the axis that it lacks, at
the site with the strongest evidence, by the best blueprint for its shape that the budget allows, as much as fits. What
the rules rest on was measured and stands in docs/log.md.

Version 2 knew modules at sites alone, one at a time; version 3 does the same with them, and is another version because
it answers packets that 2 could not: of hosts that become wider, and of seeds that are inserted first and proven
afterwards. So what 2 decided is derived again by the same rules. Version 4 leaves a network alone in `swift` that is
right nine times of ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Final

from contracts.leyline.v1.event_pb2 import EpochCompleted, SiteDescription
from esper.kasmina.lifecycle import ALIVE
from esper.metric import PERCENT, figures_of_probe
from esper.tamiyo.actions import Action
from esper.tamiyo.policies import merit
from esper.tamiyo.policies.merit import Merit, merits, why
from esper.tamiyo.policies.seeds import verdict
from esper.tamiyo.policies.thresholds import SETTINGS, SWIFT, SWIFT_3, WIDTH, SwiftSettings
from esper.tamiyo.policies.when import obstacle, pace
from esper.tamiyo.policies.where import Standing, survey
from esper.tamiyo.policy import Advice, Policy


def advise(
    state: EpochCompleted, actions: Sequence[Action], mask: Sequence[bool], *, swift: SwiftSettings = SWIFT
) -> Advice:
    """A logit above 0 for what is better than nothing, and the reason for each action."""
    live = [seed for seed in state.seeds if seed.stage in ALIVE]
    logits = [0.0] * len(actions)
    verdicts = {seed.seed_id: verdict(state, seed) for seed in live}
    in_the_way = "" if any(action.kind == "germinate" for action in actions) else "no slot is free"
    in_the_way = in_the_way or obstacle(state, live, swift)
    sites = {site.seed_id: site for site in state.sites}
    worths = {site.seed_id: merits(site) for site in state.sites}
    ground = survey(state)
    for index, action in enumerate(actions):
        if action.kind == "germinate":
            worth = worths[action.seed_id][action.blueprint_id]
            there = ground.standings[action.seed_id]
            fits = mask[index] and worth.merit > 0.0 and there.pull >= SETTINGS.least_pull
            logits[index] = there.score(worth.score) if fits and not in_the_way else -1.0
        elif action.kind in ("cull", "fossilize"):
            logits[index] = 5.0 if verdicts[action.seed_id][0] == action.kind and mask[index] else -1.0

    def reason(index: int) -> str:
        action = actions[index]
        if action.kind == "germinate":
            worth = worths[action.seed_id][action.blueprint_id]
            return _why_germinate(state, sites[action.seed_id], action, ground.standings[action.seed_id], worth)
        if action.kind in ("cull", "fossilize"):
            return verdicts[action.seed_id][1]
        told = "; ".join(sentence for _, sentence in verdicts.values())
        if told and state.lifecycle == "swift" and in_the_way:
            return f"{told}; {in_the_way}"
        nowhere = "no free site has both strong evidence and a blueprint that fits the budget"
        return told or in_the_way or "; ".join(part for part in (ground.words, nowhere) if part)

    return Advice(logits, reason, pace(state))


def _why_germinate(state: EpochCompleted, site: SiteDescription, action: Action, there: Standing, worth: Merit) -> str:
    left = state.epochs_total - state.state.current_epoch
    if site.HasField("width"):
        units = site.width.units
        what = f"{action.blueprint_id} makes it wider by {action.size:.0%} of its {units} units"
    else:
        what = f"{action.blueprint_id} fits its {site.shape_kind} shape"
    return (
        f"{_how_good(state)} with {left} epochs left; "
        f"{there.words} and {what} {why(worth, site.shape_kind, action.size)}"
    )


def _how_good(state: EpochCompleted) -> str:
    """What the probe came to, by the metric that the run is about."""
    main = figures_of_probe(state)[0]
    if main.name == "accuracy" and main.unit == PERCENT:
        return f"right on {state.state.validation_accuracy:.1%} of the probe set"
    return f"{main.phrase} on the probe set"


_AS_VERSION_2: Final = asdict(SETTINGS) | asdict(merit.SETTINGS)
HEURISTIC: Final = Policy(
    "heuristic", "4", greedy=True, advise=advise, settings=_AS_VERSION_2 | asdict(SWIFT) | asdict(WIDTH)
)
_SINCE_4: Final = frozenset({"swift_enough_accuracy"})
HEURISTIC_3: Final = Policy(
    "heuristic",
    "3",
    greedy=True,
    advise=partial(advise, swift=SWIFT_3),
    settings={name: value for name, value in HEURISTIC.settings.items() if name not in _SINCE_4},
)
HEURISTIC_2: Final = Policy("heuristic", "2", greedy=True, advise=advise, settings=_AS_VERSION_2)
"""Both for deriving their recorded decisions again."""
