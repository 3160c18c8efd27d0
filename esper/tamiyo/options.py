"""The rows of a graph's actions, and what a site offers as numbers.

Of a germination nearly everything is the same after every epoch, so it is computed once for a site's description.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contracts.leyline.v1.event_pb2 import BlueprintOption, SiteDescription
from esper.tamiyo import features, registries
from esper.tamiyo.actions import Action
from esper.tamiyo.pareto import Objectives, dominated, standings
from esper.tamiyo.policies.merit import merits

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

MOST_GROWN: Final = 4
"""So many options of a site have an edge, the best by the Pareto score; all of them are actions that are scored."""
COLUMN: Final = {name: column for column, name in enumerate(features.ACTION)}
_PAST: Final = ("kept_share", "kept_share?", "loss_delta", "loss_delta?")
_GERMINATE: Final = "germinate"


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
class Options:
    """What a site offers, as numbers: rows [n, columns of ACTION] where the run does not matter."""

    ids: tuple[str, ...]
    position: dict[str, int]
    x: Floats
    parameters: tuple[int, ...]
    objectives: tuple[Objectives, ...]
    front: NDArray[np.bool_]
    blueprint_rows: Floats
    edged: list[int]


@lru_cache(maxsize=1024)
def options_of(described: bytes) -> Options:
    """Remembered, because a run describes its sites in the same bytes after every epoch."""
    site = SiteDescription.FromString(described)
    found, worths = standings(site), merits(site)
    x = np.zeros((len(site.options), len(features.ACTION)), dtype=np.float32)
    for number, option in enumerate(site.options):
        standing = found[option.blueprint_id]
        row = {
            "parameters": math.log1p(option.parameters) / 2.0,
            "flops": math.log1p(option.flops_per_sample) / 2.0,
            "risk": option.risk if math.isfinite(option.risk) else 1.0,
            "residual": float(option.residual),
            "merit": worths[option.blueprint_id].merit,
            "place": math.log1p(worths[option.blueprint_id].place),
            "pareto": standing.score,
            "dominated": float(standing.dominated),
            **dict(zip(_PAST, features.past(option), strict=True)),
            "sheet": option.hazard_band / 4.0,
            "seed": 1.0,
        }
        for name, value in row.items():
            x[number, COLUMN[name]] = value
    ids = tuple(option.blueprint_id for option in site.options)
    best = sorted(range(len(ids)), key=lambda at: (found[ids[at]].dominated, -found[ids[at]].score, ids[at]))
    return Options(
        ids,
        {each: number for number, each in enumerate(ids)},
        filled(x, x.shape[1]),
        tuple(option.parameters for option in site.options),
        tuple(found[each].objectives for each in ids),
        np.array([not found[each].dominated for each in ids], dtype=np.bool_),
        filled(
            [_blueprint_row(option, worths[option.blueprint_id].merit) for option in site.options],
            len(features.BLUEPRINT),
        ),
        sorted(best[:MOST_GROWN]),
    )


def _blueprint_row(option: BlueprintOption, merit: float) -> list[float]:
    return [
        option.risk if math.isfinite(option.risk) else 1.0,
        *(float(option.tier == tier) for tier in (1, 2, 3)),
        option.stage / 6.0,
        option.hazard_band / 4.0,
        float(option.hazard_band > 0),
        option.handling_class / 3.0,
        float(option.residual),
        math.log1p(option.parameters) / 2.0,
        math.log1p(option.flops_per_sample) / 2.0,
        *features.past(option),
        merit,
    ]


def filled(rows: Sequence[Sequence[float]] | NDArray[Any], width: int) -> Floats:
    """As float32 with `width` columns, 0 where there is none, cut off at `features.LARGEST`; what is no number is 0."""
    array = np.zeros((len(rows), width), dtype=np.float32)
    if len(rows):
        given = np.asarray(rows, dtype=np.float32)
        array[:, : given.shape[1]] = given
    np.nan_to_num(array, copy=False, nan=0.0, posinf=features.LARGEST, neginf=-features.LARGEST)
    return np.clip(array, -features.LARGEST, features.LARGEST, out=array)


def action_table(
    actions: Sequence[Action],
    index: Mapping[str, int],
    offered: Sequence[Options],
    blueprints: Mapping[str, int],
    room: int,
) -> ActionTable:
    """The rows of `actions`; `index` is each slot's node, `offered` what it offers, `blueprints` each template's node.

    Read in stretches of one slot, whose germinations come in the order of its options where `legal_actions` made them.
    """
    count = len(actions)
    kinds, seeds = [action.kind for action in actions], [action.seed_id for action in actions]
    names, parameters = tuple(action.blueprint_id for action in actions), [action.parameters for action in actions]
    x = np.zeros((count, len(features.ACTION)), dtype=np.float32)
    kind = np.full(count, registries.KINDS.index(_GERMINATE), dtype=np.int64)
    seed, blueprint = np.full(count, -1, dtype=np.int64), np.full(count, -1, dtype=np.int64)
    choosable = np.ones(count, dtype=np.bool_)
    needed = np.array(parameters, dtype=np.int64)
    fits = needed <= room
    nodes = {id(each): np.array([blueprints[name] for name in each.ids], dtype=np.int64) for each in offered}
    at = 0
    while at < count:
        slot = index.get(seeds[at], -1)
        options = offered[slot] if slot >= 0 and kinds[at] == _GERMINATE else None
        end = at + (len(options.ids) if options is not None else 1)
        stretch = slice(at, end)
        if options is not None and names[stretch] == options.ids and seeds[stretch].count(seeds[at]) == end - at:
            x[stretch] = options.x
            blueprint[stretch] = nodes[id(options)]
            choosable[stretch] = _on_the_front(options, fits[stretch])
        elif options is not None:
            end = next(
                (later for later in range(at, count) if seeds[later] != seeds[at] or kinds[later] != kinds[at]), count
            )
            stretch = slice(at, end)
            place = [options.position.get(each, -1) for each in names[stretch]]
            fitting = np.zeros(len(options.ids), dtype=np.bool_)
            for row, option in enumerate(place, at):
                fitting[option] |= option >= 0 and fits[row]
            front = _on_the_front(options, fitting)
            for row, option in enumerate(place, at):
                if option >= 0:
                    x[row], blueprint[row] = options.x[option], nodes[id(options)][option]
                choosable[row] = option < 0 or front[option]
        else:
            kind[at] = registries.KINDS.index(kinds[at])
            x[at, COLUMN["seed"]] = float(slot >= 0)
            blueprint[at] = blueprints.get(names[at], -1)
        seed[stretch] = slot
        at = end
    germinates = kind == registries.KINDS.index(_GERMINATE)
    x[:, COLUMN["parameters"]] = np.log1p(needed) / 2.0
    x[:, COLUMN["room_share"]] = np.minimum(4.0, needed / max(1, room))
    x[:, COLUMN["fits"]] = germinates & fits
    x[:, COLUMN["size"]] = np.array([action.size for action in actions], dtype=np.float32)
    return ActionTable(x, kind, seed, blueprint, choosable)


def _on_the_front(options: Options, fits: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of each option whether nothing that fits dominates it; where all fit that is known already."""
    return options.front if fits.all() else _front_of(options.objectives, tuple(fits.tolist()))


@lru_cache(maxsize=1024)
def _front_of(objectives: tuple[Objectives, ...], fits: tuple[bool, ...]) -> NDArray[np.bool_]:
    left = [at for at, fit in enumerate(fits) if fit]
    beaten = dict(zip(left, dominated([objectives[at] for at in left]), strict=True))
    return np.array([not beaten.get(at, True) for at in range(len(fits))], dtype=np.bool_)
