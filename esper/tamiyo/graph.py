"""Tamiyo's eyes: a state packet and its actions as one heterogeneous graph of numbers.

    global ─governs─► seed ─monitors─► layer ─connects─► layer ─feeds─► activation ─influences─► layer
    global ─operates─► layer     seed ─may_grow─► blueprint     seed ─allows─► parameter ─tunes─► layer

One seed node for each slot, one layer and one activation node for each place of a slot, one blueprint node for each
template that some site offers, parameter nodes for the host and every live seed. Every relation has its reverse. Any
number of each: nothing here knows a task, a host or a site kind. An action is a row beside the graph, with the index of
its slot and of its blueprint. Needs numpy alone; `Graph.to_hetero` needs torch_geometric.

What an edge's `strength` and `volume` are: connects: ratio of the activations' norms, elements; monitors: alpha, the
seed's share of the activation; feeds: dead share, rank share; influences: gradient, rank share; tunes: gradient norm,
share of the parameters; allows: alpha, share; may_grow: merit, share of the room that it takes. `known` is their mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from contracts.leyline.v1.event_pb2 import (
    EpochCompleted,
    SeedObservation,
    SiteDescription,
    SiteEvidence,
)
from esper.errors import ContractViolation
from esper.kasmina.lifecycle import ALIVE
from esper.tamiyo import features, registries
from esper.tamiyo.actions import Action
from esper.tamiyo.options import COLUMN, ActionTable, Floats, Indices, Options, action_table, filled, options_of

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

Relation = tuple[str, str, str]

FORWARD: Final[tuple[Relation, ...]] = (
    ("global", "governs", "seed"),
    ("global", "operates", "layer"),
    ("layer", "connects", "layer"),
    ("seed", "monitors", "layer"),
    ("layer", "feeds", "activation"),
    ("activation", "influences", "layer"),
    ("parameter", "tunes", "layer"),
    ("seed", "allows", "parameter"),
    ("seed", "may_grow", "blueprint"),
)
REVERSE: Final[tuple[Relation, ...]] = tuple((target, f"rev_{name}", source) for source, name, target in FORWARD)
RELATIONS: Final = FORWARD + REVERSE
BY_MAX: Final = frozenset({"monitors", "influences", "rev_monitors", "rev_influences", "rev_may_grow"})
"""Relations whose messages a GraphSAGE stage takes the largest of; of the others the mean."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many columns each node type has; columns without a name are 0. `DESIGN` has the published widths."""

    node: Mapping[str, int] = field(
        default_factory=lambda: {name: len(names) for name, names in features.NODES.items()}
    )
    action: int = len(features.ACTION)
    edge: int = len(features.EDGE)

    def width(self, node_type: str) -> int:
        """The columns of a node type; raises ContractViolation for one that there is not, or too few of them."""
        names = features.NODES.get(node_type)
        if names is None or node_type not in self.node:
            raise ContractViolation(f"there is no node type {node_type!r}; it knows {', '.join(features.NODES)}")
        if self.node[node_type] < len(names):
            raise ContractViolation(f"{node_type} nodes have {len(names)} features and {self.node[node_type]} columns")
        return self.node[node_type]


NAMED: Final = Sizes()
DESIGN: Final = Sizes(node={"global": 64, "seed": 64, "blueprint": 64, "layer": 128, "activation": 32, "parameter": 16})


@dataclass(frozen=True, slots=True)
class Edges:
    """Of one relation: source and target indices, sorted by target, [2, E]; attributes [E, 3]."""

    index: Indices
    attributes: Floats


@dataclass(frozen=True, slots=True)
class Graph:
    """Node features [N, columns] and registry indices [N] by type, edges by relation, the actions."""

    x: Mapping[str, Floats]
    registry: Mapping[str, Indices]
    edges: Mapping[Relation, Edges]
    actions: ActionTable

    def to_hetero(self) -> HeteroData:
        """For torch_geometric: nodes `x` and `registry`, edges `edge_index` and `edge_attr`, actions as nodes `action`.

        An action's slot and blueprint are edges, so that a batch of graphs moves their indices like all others.
        """
        import torch  # noqa: PLC0415 - most who build a graph need neither
        from torch_geometric.data import HeteroData  # noqa: PLC0415

        data = HeteroData()
        for node_type, rows in self.x.items():
            data[node_type].x = torch.from_numpy(rows)
            data[node_type].registry = torch.from_numpy(self.registry[node_type])
        for relation, edges in self.edges.items():
            data[relation].edge_index = torch.from_numpy(edges.index)
            data[relation].edge_attr = torch.from_numpy(edges.attributes)
        table = self.actions
        data["action"].x = torch.from_numpy(table.x)
        data["action"].kind = torch.from_numpy(table.kind)
        data["action"].choosable = torch.from_numpy(table.choosable)
        for name, target, column in (("at", "seed", table.seed), ("of", "blueprint", table.blueprint)):
            has = np.flatnonzero(column >= 0)
            data["action", name, target].edge_index = torch.from_numpy(np.stack([has, column[has]]))
        return data


def build(state: EpochCompleted, actions: Sequence[Action], sizes: Sizes = NAMED) -> Graph:
    """The graph of a packet and of what may be done about it, the same bytes for the same packet.

    Raises ContractViolation for sizes that do not hold the features; nothing that a packet lacks is an error.
    """
    places = _places(state)
    blueprints = _blueprints(places)
    x: dict[str, Sequence[Sequence[float]] | Floats] = {
        "global": [features.whole(state)],
        "seed": [features.seed(state, place.seed, place.site, places.deepest) for place in places.rows],
        "blueprint": blueprints.rows,
        "layer": [features.layer(each.site, each.evidence, places.strongest, places.deepest) for each in places.rows],
        "activation": [features.activation(place.site, place.evidence) for place in places.rows],
        "parameter": _parameters(state, places),
    }
    shapes = np.array([_layer_type(place.site) for place in places.rows], dtype=np.int64)
    registry = {
        "global": np.zeros(1, dtype=np.int64),
        "seed": shapes,
        "blueprint": np.array([registries.BLUEPRINTS.index(each) for each in blueprints.ids], dtype=np.int64),
        "layer": shapes,
        "activation": shapes,
        "parameter": np.zeros(len(x["parameter"]), dtype=np.int64),
    }
    room = max(0, state.params_budget - max(0, state.params - state.params_host))
    return Graph(
        x={name: filled(columns, sizes.width(name)) for name, columns in x.items()},
        registry=registry,
        edges=_edges(state, places, blueprints, room),
        actions=action_table(actions, places.index, [each.options for each in places.rows], blueprints.index, room),
    )


# --------------------------------------------------------------------------------------------------------------- nodes


@dataclass(frozen=True, slots=True)
class _Place:
    site: SiteDescription
    seed: SeedObservation
    evidence: SiteEvidence | None
    options: Options


@dataclass(frozen=True, slots=True)
class _Places:
    rows: list[_Place]
    index: dict[str, int]
    strongest: dict[str, float]
    deepest: int


def _places(state: EpochCompleted) -> _Places:
    """The sites whose slot was observed, in the packet's order; a slot without a site is nowhere and has no row."""
    evidence = {row.seed_id: row for row in state.evidence}
    observed = {seed.seed_id: seed for seed in state.seeds}
    rows = [
        _Place(
            site,
            observed[site.seed_id],
            evidence.get(site.seed_id),
            options_of(site.SerializeToString(deterministic=True)),
        )
        for site in state.sites
        if site.seed_id in observed
    ]
    index = {place.site.seed_id: number for number, place in enumerate(rows)}
    return _Places(
        rows,
        index,
        features.strongest_of([place.evidence for place in rows if place.evidence is not None]),
        max(1, *(place.site.depth for place in rows)) if rows else 1,
    )


def _layer_type(site: SiteDescription) -> int:
    wider = "heads" if site.width.sections > 1 else "width"
    return registries.SHAPES.index(wider if site.HasField("width") else features.shape_of(site))


@dataclass(frozen=True, slots=True)
class _Blueprints:
    ids: list[str]
    index: dict[str, int]
    rows: Floats


def _blueprints(places: _Places) -> _Blueprints:
    """One node for each template that any site offers, its figures the mean over those sites."""
    offered = [place.options for place in places.rows]
    ids = sorted({each for options in offered for each in options.ids})
    index = {each: at for at, each in enumerate(ids)}
    rows: Floats = np.zeros((len(ids), len(features.BLUEPRINT)), dtype=np.float32)
    if ids:
        nodes = np.array([index[each] for options in offered for each in options.ids])
        order = np.argsort(nodes, kind="stable")
        counts = np.bincount(nodes)
        given = np.concatenate([options.blueprint_rows for options in offered])[order]
        sums = np.add.reduceat(given, counts.cumsum() - counts)
        rows = (sums / counts[:, None]).astype(np.float32)
    return _Blueprints(ids, index, rows)


def _parameters(state: EpochCompleted, places: _Places) -> list[list[float]]:
    """The host's row first, then one for each live seed in the seeds' order."""
    gradient = state.state.training_metrics.get("gradient_norm", math.nan)
    rows = [features.parameter(state, state.params_host, gradient, host=True)]
    for place in places.rows:
        if place.seed.stage in ALIVE:
            count = place.seed.parameters
            rows.append(features.parameter(state, count, place.seed.gradient_norm, host=False))
    return rows


# --------------------------------------------------------------------------------------------------------------- edges

_Row = tuple[int, int, float, float, float]
"""Source, target, strength, volume, known."""


def _edges(state: EpochCompleted, places: _Places, blueprints: _Blueprints, room: int) -> dict[Relation, Edges]:
    rows = dict[str, list[_Row]]({name: [] for _, name, _ in FORWARD})
    order = sorted(range(len(places.rows)), key=lambda at: (places.rows[at].site.depth, at))
    rows["connects"] = [_connects(places.rows[a], places.rows[b], a, b) for a, b in pairwise(order)]
    live = 1
    host_norm, known = features.optional_log(state.state.training_metrics.get("gradient_norm", math.nan))
    for at, place in enumerate(places.rows):
        seed, row = place.seed, place.evidence
        seen = float(row is not None)
        rank, dead = features.rank_share(place.site, row), row.dead_fraction if row is not None else 0.0
        gradient = row.gradient_norm / places.strongest["gradient"] if row is not None else 0.0
        rows["governs"].append((0, at, seed.alpha, 0.0, 1.0))
        rows["operates"].append((0, at, gradient, 0.0, seen))
        rows["monitors"].append((at, at, seed.alpha, features.symlog(seed.activation_norm_ratio), 1.0))
        rows["feeds"].append((at, at, dead, rank, seen))
        rows["influences"].append((at, at, gradient, rank, seen))
        rows["tunes"].append((0, at, host_norm, state.params_host / max(1, state.params), known))
        if seed.stage in ALIVE:
            share = seed.parameters / max(1, state.params)
            rows["tunes"].append((live, at, features.symlog(seed.gradient_norm), share, 1.0))
            rows["allows"].append((at, live, seed.alpha, share, 1.0))
            live += 1
        else:
            options = place.options
            for option in options.edged:
                share = min(4.0, options.parameters[option] / max(1, room))
                merit = float(options.x[option, COLUMN["merit"]])
                rows["may_grow"].append((at, blueprints.index[options.ids[option]], merit, share, 1.0))
    found = dict[Relation, Edges]()
    for forward, reverse in zip(FORWARD, REVERSE, strict=True):
        found[forward], found[reverse] = _both_ways(rows[forward[1]])
    return found


def _connects(one: _Place, other: _Place, source: int, target: int) -> _Row:
    norms = [place.evidence.activation_norm if place.evidence is not None else 0.0 for place in (one, other)]
    known = all(math.isfinite(norm) and norm > 0.0 for norm in norms)
    ratio = features.symlog(math.log(norms[1] / norms[0])) if known else 0.0
    return source, target, ratio, math.log1p(math.prod(one.site.shape)) / 4.0, float(known)


def _both_ways(rows: Sequence[_Row]) -> tuple[Edges, Edges]:
    if not rows:
        nothing = Edges(np.zeros((2, 0), dtype=np.int64), np.zeros((0, len(features.EDGE)), dtype=np.float32))
        return nothing, nothing
    table = np.array(rows, dtype=np.float64)
    index, attributes = table[:, :2].astype(np.int64).T, filled(table[:, 2:], len(features.EDGE))
    return _sorted(index, attributes), _sorted(index[::-1], attributes)


def _sorted(index: Indices, attributes: Floats) -> Edges:
    """By target, then by source: sums over equal edges then have equal bits."""
    order = np.lexsort((index[0], index[1]))
    return Edges(np.ascontiguousarray(index[:, order]), np.ascontiguousarray(attributes[order]))
