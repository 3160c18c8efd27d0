"""What a site is and offers, and what all sites of a run are together, as numbers.

Of a site and of a germination there nearly everything is the same after every epoch, so it is computed once for a
site's description, and once for all sites of a run. What is left for each packet is done for all sites at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contracts.leyline.v1.event_pb2 import BlueprintOption, SiteDescription
from esper.tamiyo import features, registries
from esper.tamiyo.pareto import Objectives, dominated, standings
from esper.tamiyo.policies.merit import merits

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

MOST_GROWN: Final = 4
"""So many options of a site have an edge, the best by the Pareto score; all of them are actions that are scored."""
_DEPTH: Final = features.LAYER.index("depth")
COLUMN: Final = {name: column for column, name in enumerate(features.ACTION)}
_PAST: Final = ("kept_share", "kept_share?", "loss_delta", "loss_delta?")


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """A site and what it offers, as numbers: rows [n, columns of ACTION] where the run does not matter.

    There is one for each description, so they are compared by identity. `layer` is the row of its layer as far as the
    site decides it, `rank_of` the units that the rank of its activation is a share of.
    """

    described: bytes
    seed_id: str
    ids: tuple[str, ...]
    position: dict[str, int]
    x: Floats
    parameters: Indices
    most: int
    objectives: tuple[Objectives, ...]
    front: NDArray[np.bool_]
    blueprint_rows: Floats
    edged: Indices
    edged_merit: Floats
    edged_parameters: Indices
    layer: Sequence[float]
    rank_of: int
    volume: float
    registry: int
    depth: int
    wider: bool
    fronts: dict[bytes, NDArray[np.bool_]] = field(default_factory=dict)
    """What is not dominated of those that fit, by which fit."""

    def front_of(self, fits: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of each option whether nothing that fits dominates it."""
        if fits.all():
            return self.front
        found = self.fronts.get(fits.tobytes())
        if found is None:
            left = np.flatnonzero(fits).tolist()
            found = np.zeros(len(fits), dtype=np.bool_)
            found[left] = np.logical_not(dominated([self.objectives[at] for at in left]))
            self.fronts[fits.tobytes()] = found
        return found


@lru_cache(maxsize=4096)
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
            "size": 1.0,
            "seed": 1.0,
        }
        for name, value in row.items():
            x[number, COLUMN[name]] = value
    ids = tuple(option.blueprint_id for option in site.options)
    best = sorted(range(len(ids)), key=lambda at: (found[ids[at]].dominated, -found[ids[at]].score, ids[at]))
    edged = np.array(sorted(best[:MOST_GROWN]), dtype=np.int64)
    wider = site.HasField("width")
    parameters = np.array([option.parameters for option in site.options], dtype=np.int64)
    return Options(
        described=described,
        seed_id=site.seed_id,
        ids=ids,
        position={each: number for number, each in enumerate(ids)},
        x=filled(x, x.shape[1]),
        parameters=parameters,
        most=int(parameters.max(initial=0)),
        objectives=tuple(found[each].objectives for each in ids),
        front=np.array([not found[each].dominated for each in ids], dtype=np.bool_),
        blueprint_rows=filled(
            [_blueprint_row(option, worths[option.blueprint_id].merit) for option in site.options],
            len(features.BLUEPRINT),
        ),
        edged=edged,
        edged_merit=x[edged, COLUMN["merit"]],
        edged_parameters=parameters[edged],
        layer=features.layer(site),
        rank_of=features.units_of(site),
        volume=math.log1p(math.prod(site.shape)) / 4.0,
        registry=_layer_type(site),
        depth=site.depth,
        wider=wider,
    )


def _layer_type(site: SiteDescription) -> int:
    wider = "heads" if site.width.sections > 1 else "width"
    return registries.SHAPES.index(wider if site.HasField("width") else features.shape_of(site))


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
        given = np.asarray(rows)
        array[:, : given.shape[1]] = given
    return cut(array)


def cut(array: Floats) -> Floats:
    """In place: cut off at `features.LARGEST`, and 0 where there is no number."""
    np.clip(array, -features.LARGEST, features.LARGEST, out=array)
    np.copyto(array, 0.0, where=np.isnan(array))
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Host:
    """What all sites of a packet are together, as far as no epoch changes it: nodes, and rows [places, ...].

    `nodes` are the blueprint nodes of each site's options, `edged` those of its options that have an edge, `blueprint`
    the nodes' rows, each the mean over the sites that offer the template.
    """

    offered: tuple[Options, ...]
    index: Mapping[str, int]
    nodes: tuple[Indices, ...]
    edged: tuple[Indices, ...]
    blueprint: Floats
    blueprint_registry: Indices
    shapes: Indices
    layer: NDArray[np.float64]
    depth: NDArray[np.float64]
    rank_of: NDArray[np.float64]
    volume: NDArray[np.float64]
    in_depth: Indices


@lru_cache(maxsize=64)
def host_of(offered: tuple[Options, ...]) -> Host:
    """Remembered, because a run has the same sites after every epoch until its structure changes."""
    names = sorted({each for options in offered for each in options.ids})
    at = {name: node for node, name in enumerate(names)}
    nodes = tuple(np.array([at[each] for each in options.ids], dtype=np.int64) for options in offered)
    sums, counts = np.zeros((len(names), len(features.BLUEPRINT))), np.zeros((len(names), 1))
    for options, of_site in zip(offered, nodes, strict=True):
        sums[of_site] += options.blueprint_rows
        counts[of_site] += 1.0
    depth = np.array([float(options.depth) for options in offered])
    layer = np.array([options.layer for options in offered]).reshape(-1, len(features.LAYER))
    layer[:, _DEPTH] = depth / max(1.0, depth.max(initial=1.0))
    return Host(
        offered=offered,
        index={options.seed_id: number for number, options in enumerate(offered)},
        nodes=nodes,
        edged=tuple(each[options.edged] for options, each in zip(offered, nodes, strict=True)),
        blueprint=(sums / np.maximum(counts, 1.0)).astype(np.float32),
        blueprint_registry=np.array([registries.BLUEPRINTS.index(each) for each in names], dtype=np.int64),
        shapes=np.array([options.registry for options in offered], dtype=np.int64),
        layer=layer,
        depth=layer[:, _DEPTH],
        rank_of=np.array([float(options.rank_of) for options in offered]),
        volume=np.array([options.volume for options in offered]),
        in_depth=np.argsort(depth, kind="stable"),
    )
