"""The rows of a graph's actions, an action each.

What `legal_actions` suggests of the slots is the same list after every epoch until a seed comes or goes, and of its
rows only the room that is left decides anything: so they are made once. Every other list is made as it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esper.tamiyo import features, registries
from esper.tamiyo.actions import NOTHING, Action, germinations
from esper.tamiyo.options import COLUMN, Floats, Host, Indices, Options

_GERMINATE: Final = registries.KINDS.index("germinate")
_NEVER: Final = 2**62


@dataclass(frozen=True, slots=True)
class ActionTable:
    """A row for each action, in the actions' order. `seed` and `blueprint` index nodes, -1 where it has none.

    `choosable` is false for a germination that another of the same slot dominates (R-TAM-63).
    """

    x: Floats
    kind: Indices
    seed: Indices
    blueprint: Indices
    choosable: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The germinations of a slot from action `start` on: which option each is, -1 where the site offers it not."""

    start: int
    options: Options
    place: Indices
    needed: Indices
    most: int
    """Beyond that room all of them fit; never where the site offers more than is listed."""

    def choosable(self, room: int) -> NDArray[np.bool_]:
        """Of each whether nothing that fits dominates it."""
        known, fitting = self.place >= 0, np.zeros(len(self.options.ids), dtype=np.bool_)
        fitting[self.place[known & (self.needed <= room)]] = True
        return ~known | self.options.front_of(fitting)[self.place]


@dataclass(frozen=True, slots=True)
class _Listed:
    """The rows of a list of actions, as far as the room that is left does not decide them."""

    actions: list[Action]
    x: Floats
    kind: Indices
    seed: Indices
    blueprint: Indices
    needed: Indices
    stretches: list[_Stretch]
    front: NDArray[np.bool_]
    """What is choosable where everything fits."""
    most: int


def action_table(actions: Sequence[Action], host: Host, live: Sequence[int], room: int, sized: int) -> ActionTable:
    """The rows of `actions`, where the seeds at `live` have yet to prove themselves.

    `room` is what the budget leaves, `sized` what a site that becomes wider may take. What `legal_actions` suggests of
    the slots is known already, every other action is a row by itself.
    """
    wider = any(options.wider for options in host.offered)
    listed = _suggested(host, tuple(live), sized if wider else 0)
    count = len(listed.actions)
    if list(actions[:count]) == listed.actions:
        listed = _beside(listed, actions[count:], host)
    else:
        listed = _list(list(actions), host)
    x = listed.x.copy()
    x[:, COLUMN["room_share"]] = np.minimum(4.0, listed.needed / max(1, room))
    x[:, COLUMN["fits"]] = (listed.kind == _GERMINATE) & (listed.needed <= room)
    choosable = listed.front
    if listed.most > room:
        choosable = choosable.copy()
        for each in listed.stretches:
            if each.most > room:
                choosable[each.start : each.start + len(each.place)] = each.choosable(room)
    return ActionTable(x, listed.kind, listed.seed, listed.blueprint, choosable)


@lru_cache(maxsize=64)
def _suggested(host: Host, live: tuple[int, ...], sized: int) -> _Listed:
    """What `legal_actions` suggests of the slots."""
    actions, alive = [NOTHING], set(live)
    for number, options in enumerate(host.offered):
        if number in alive:
            actions += [Action("cull", options.seed_id), Action("fossilize", options.seed_id)]
        else:
            actions += germinations(options.described, sized if options.wider else 0)
    return _list(actions, host)


def _beside(listed: _Listed, others: Sequence[Action], host: Host) -> _Listed:
    """With the rows of actions that are no germinations behind them."""
    if not others:
        return listed
    more = _list(list(others), host)
    front = np.concatenate([listed.front, more.front])
    stretches = [replace(each, start=each.start + len(listed.kind)) for each in more.stretches]
    return _Listed(
        actions=[],
        x=np.concatenate([listed.x, more.x]),
        kind=np.concatenate([listed.kind, more.kind]),
        seed=np.concatenate([listed.seed, more.seed]),
        blueprint=np.concatenate([listed.blueprint, more.blueprint]),
        needed=np.concatenate([listed.needed, more.needed]),
        stretches=[*listed.stretches, *stretches],
        front=front,
        most=max(listed.most, more.most),
    )


def _list(actions: list[Action], host: Host) -> _Listed:
    x = np.zeros((len(actions), len(features.ACTION)), dtype=np.float32)
    kind = np.array([registries.KINDS.index(each.kind) for each in actions], dtype=np.int64)
    seed = np.array([host.index.get(each.seed_id, -1) for each in actions], dtype=np.int64)
    needed = np.array([each.parameters for each in actions], dtype=np.int64)
    blueprint = np.full(len(actions), -1, dtype=np.int64)
    front, stretches = np.ones(len(actions), dtype=np.bool_), list[_Stretch]()
    x[:, COLUMN["seed"]] = seed >= 0
    for (germinates, slot), stretch in groupby(range(len(actions)), lambda at: (kind[at] == _GERMINATE, seed[at])):
        rows = list(stretch)
        if not germinates or slot < 0 or not host.offered[slot].ids:
            continue
        options, here = host.offered[slot], slice(rows[0], rows[-1] + 1)
        place = np.array([options.position.get(each.blueprint_id, -1) for each in actions[here]], dtype=np.int64)
        known = place >= 0
        x[here] = np.where(known[:, None], options.x[place], np.float32(0.0))
        blueprint[here] = np.where(known, host.nodes[slot][place], -1)
        front[here] = ~known | options.front[place]
        whole = set(place.tolist()) >= set(range(len(options.ids)))
        most = int(needed[here].max()) if whole else _NEVER
        stretches.append(_Stretch(rows[0], options, place, needed[here], most))
    x[:, COLUMN["parameters"]] = np.log1p(needed) / 2.0
    x[:, COLUMN["size"]] = [each.size for each in actions]
    most = max((each.most for each in stretches), default=0)
    return _Listed(actions, x, kind, seed, blueprint, needed, stretches, front, most)
