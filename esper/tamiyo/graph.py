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
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from contracts.leyline.v1.event_pb2 import EpochCompleted
from esper.errors import ContractViolation
from esper.tamiyo import features, seen
from esper.tamiyo.action_rows import ActionTable, action_table
from esper.tamiyo.actions import Action, room_for_one
from esper.tamiyo.options import Floats, Indices, cut, filled
from esper.tamiyo.seen import Column, Places

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
    seeds = list(state.seeds)
    with np.errstate(all="ignore"):  # what is no number becomes 0, and its mask says so
        places = seen.read(state, seeds)
        host = places.host
        x: dict[str, Sequence[Sequence[float]] | NDArray[Any]] = {
            "global": [features.whole(state, seeds)],
            "seed": seen.seed_rows(places, state.state.validation_loss),
            "blueprint": host.blueprint,
            "layer": seen.layer_rows(places),
            "activation": seen.activation_rows(places),
            "parameter": _parameters(state, places),
        }
        registry = {
            "global": np.zeros(1, dtype=np.int64),
            "seed": host.shapes,
            "blueprint": host.blueprint_registry,
            "layer": host.shapes,
            "activation": host.shapes,
            "parameter": np.zeros(len(x["parameter"]), dtype=np.int64),
        }
        room = max(0, state.params_budget - max(0, state.params - state.params_host))
        return Graph(
            x={name: filled(columns, sizes.width(name)) for name, columns in x.items()},
            registry=registry,
            edges=_edges(state, places, room),
            actions=action_table(actions, host, places.live, room, room_for_one(state)),
        )


# --------------------------------------------------------------------------------------------------------------- nodes


def _parameters(state: EpochCompleted, places: Places) -> list[list[float]]:
    """The host's row first, then one for each live seed in the seeds' order."""
    gradient = state.state.training_metrics.get("gradient_norm", math.nan)
    rows = [features.parameter(state, state.params_host, gradient, host=True)]
    for at in places.live:
        count, norm = places.parameters[at], places.seed_gradient[at]
        rows.append(features.parameter(state, int(count), float(norm), host=False))
    return rows


# --------------------------------------------------------------------------------------------------------------- edges


_Rows = tuple[Indices, Indices, Column | float, Column | float, Column | float]
"""Sources, targets, and the attributes strength, volume, known, one number where all edges have the same."""
_UNSORTED: Final = frozenset({"connects", "tunes", "may_grow"})
"""Relations whose edges do not come sorted by target and by source both."""


def _edges(state: EpochCompleted, places: Places, room: int) -> dict[Relation, Edges]:
    count = len(places.host.offered)
    each, of_host = np.arange(count), np.zeros(count, dtype=np.int64)
    live = np.array(places.live, dtype=np.int64)
    parameter = np.arange(1, 1 + len(live))
    share = places.parameters[live] / max(1, state.params)
    host_norm, known = features.optional_log(state.state.training_metrics.get("gradient_norm", math.nan))
    host_share = state.params_host / max(1, state.params)
    gradient, evidence = places.gradient_share, places.evidence
    tunes = (
        np.concatenate([of_host, parameter]),
        np.concatenate([each, live]),
        np.concatenate([np.full(count, host_norm), seen.symlog(places.seed_gradient[live])]),
        np.concatenate([np.full(count, host_share), share]),
        np.concatenate([np.full(count, known), np.ones(len(live))]),
    )
    return _both_ways(
        {
            "governs": (of_host, each, places.alpha, 0.0, 1.0),
            "operates": (of_host, each, gradient, 0.0, evidence),
            "connects": _connects(places),
            "monitors": (each, each, places.alpha, seen.symlog(places.ratio), 1.0),
            "feeds": (each, each, places.dead, places.rank_share, evidence),
            "influences": (each, each, gradient, places.rank_share, evidence),
            "tunes": tunes,
            "allows": (live, parameter, places.alpha[live], share, 1.0),
            "may_grow": _may_grow(places, room),
        }
    )


def _connects(places: Places) -> _Rows:
    """Each place to the next in the order of their depths."""
    order = places.host.in_depth
    source, target = order[:-1], order[1:]
    before, after = places.norm[source], places.norm[target]
    known = (before > 0.0) & (after > 0.0)
    ratio = seen.symlog(np.where(known, np.log(after / before), 0.0))
    return source, target, ratio, places.host.volume[source], known.astype(np.float64)


def _may_grow(places: Places, room: int) -> _Rows:
    """Of each slot where nothing lives, the options that have an edge."""
    host = places.host
    free = sorted(set(range(len(host.offered))).difference(places.live))
    if not free:
        return _NO_INDEX, _NO_INDEX, 0.0, 0.0, 1.0
    target = np.concatenate([host.edged[at] for at in free])
    source = np.repeat(np.array(free), [len(host.edged[at]) for at in free])
    needed = np.concatenate([host.offered[at].edged_parameters for at in free])
    merit = np.concatenate([host.offered[at].edged_merit for at in free])
    return source, target, merit, np.minimum(4.0, needed / max(1, room)), 1.0


_NO_INDEX: Final[Indices] = np.zeros(0, dtype=np.int64)


def _both_ways(rows: Mapping[str, _Rows]) -> dict[Relation, Edges]:
    """Each relation and its reverse; their attributes are made of one table, and shared where the order allows it."""
    ends = np.cumsum([len(each[0]) for each in rows.values()])
    attributes = np.empty((int(ends[-1]), len(features.EDGE)), dtype=np.float32)
    there = np.empty((2, len(attributes)), dtype=np.int64)
    for end, (source, target, strength, volume, known) in zip(ends, rows.values(), strict=True):
        here = slice(end - len(source), end)
        there[0, here], there[1, here] = source, target
        attributes[here, 0], attributes[here, 1], attributes[here, 2] = strength, volume, known
    cut(attributes)
    back = np.ascontiguousarray(there[::-1])
    found = dict[Relation, Edges]()
    for end, forward, reverse in zip(ends, FORWARD, REVERSE, strict=True):
        here = slice(end - len(rows[forward[1]][0]), end)
        for relation, index in ((forward, there[:, here]), (reverse, back[:, here])):
            made = Edges(index, attributes[here])
            found[relation] = _sorted(made) if forward[1] in _UNSORTED else made
    return found


def _sorted(edges: Edges) -> Edges:
    """By target, then by source: sums over equal edges then have equal bits."""
    order = np.lexsort((edges.index[0], edges.index[1]))
    return Edges(edges.index[:, order], edges.attributes[order])
