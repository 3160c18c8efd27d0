"""Tamiyo's network: two GraphSAGE and two GAT stages over the whole graph at once, and the heads.

All node types share one width behind their encoders, and all relations are fused into one list of edges: a stage is one
gather and one sum, not eighteen (a HeteroConv of as many relations takes 7 to 9 ms on one thread). A SAGE stage is
torch_geometric's `SAGEConv`, of the mean over most relations and of the maximum over `graph.BY_MAX`; a GAT stage is its
`GATConv` with the heads averaged, where an edge's relation and attributes enter the attention. Tests hold them to those
classes. They are written in plain torch so that a decider that serves needs no torch_geometric (96 MB).

Nothing here knows how many slots, layers or blueprints there are: an action's logit is made of its own row, its slot,
its blueprint and the whole (GraphSAGE: arXiv 1706.02216; GAT: arXiv 1710.10903; heads: policy sheet 1.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.errors import InvalidInput
from esper.tamiyo import features, graph, registries
from esper.tamiyo.graph import Graph, Sizes

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

ARCHITECTURE: Final = "tamiyo_gnn_v1"
RISKS: Final = 5
PARAMETERS: Final = 4
"""Continuous ones, each in [-1, 1]; the first is the change of the learning rate or of alpha."""
_NODE_TYPES: Final = tuple(features.NODES)
_REGISTRIES: Final = {
    "seed": registries.SHAPES,
    "blueprint": registries.BLUEPRINTS,
    "layer": registries.SHAPES,
    "activation": registries.SHAPES,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Widths of the SAGE and GAT stages, attention heads, columns of the graph."""

    preset: str = "small"
    sage: int = 64
    gat: int = 32
    heads: int = 4
    embedding: int = 8
    dropout: float = 0.2
    sizes: Sizes = field(default_factory=Sizes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for metadata."""
        return asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Settings:
        """From what `to_dict` gave; raises TypeError for anything else."""
        sizes = dict(content["sizes"])
        return cls(**{**content, "sizes": Sizes(**sizes)})


PRESETS: Final = {"small": Settings(), "full": Settings("full", 256, 128, 4, 32, 0.2, graph.DESIGN)}
"""`small` has less than 100,000 parameters: a controller must not dwarf its host. `full` has the published widths."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """One or many graphs as tensors: nodes by type, all edges over the nodes of all types, sorted by target.

    `of_mean` and `of_max` number the edges of which a SAGE stage takes the mean and the maximum. An action's `slot` and
    `blueprint` are node numbers over all types, and the number behind the last node where it has none. `graph_of_*` say
    to which graph something belongs.
    """

    x: dict[str, Tensor]
    registry: dict[str, Tensor]
    source: Tensor
    target: Tensor
    relation: Tensor
    attributes: Tensor
    of_mean: Tensor
    of_max: Tensor
    action: Tensor
    kind: Tensor
    slot: Tensor
    blueprint: Tensor
    choosable: Tensor
    graph_of_action: Tensor
    graph_of_layer: Tensor
    graphs: int


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the network says. A actions, B graphs, S slots.

    logits [A] of each action; value [B], of the run's end; risk [B, 5] logits of the five levels; params [S, 4] in
    [-1, 1]; blending [S, 3] logits of linear, cosine and warmup_hold; schedule [S, 2] start <= end in [0, 1]; breaker
    [B, 2] logits of open and close. `graph_of_action` [A] says whose an action is, `choosable` [A] whether it may be
    chosen at all: a softmax goes over the actions of one graph that are legal and choosable; `graph_of_slot` [S] says
    whose a slot is.
    """

    logits: Tensor
    value: Tensor
    risk: Tensor
    params: Tensor
    blending: Tensor
    schedule: Tensor
    breaker: Tensor
    graph_of_action: Tensor
    graph_of_slot: Tensor
    choosable: Tensor


class GraphSAGE(nn.Module):
    """`SAGEConv(aggr="mean")` over most edges plus `SAGEConv(aggr="max", root_weight=False)` over the others."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.own = nn.Linear(width_in, width)
        self.mean = nn.Linear(width_in, width, bias=False)
        self.largest = nn.Linear(width_in, width, bias=False)

    def forward(self, h: Tensor, inputs: Inputs) -> Tensor:
        """[N, width_in] to [N, width]."""
        mean = _mean(h, inputs.source[inputs.of_mean], inputs.target[inputs.of_mean])
        largest = _largest(h, inputs.source[inputs.of_max], inputs.target[inputs.of_max])
        out: Tensor = self.own(h) + self.mean(mean) + self.largest(largest)
        return out


class GAT(nn.Module):
    """`GATConv(heads, concat=False, add_self_loops=False)`, with a score of its own for every relation."""

    def __init__(self, width_in: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.values = nn.Linear(width_in, heads * width, bias=False)
        self.of_source = nn.Parameter(torch.empty(heads, width))
        self.of_target = nn.Parameter(torch.empty(heads, width))
        self.of_relation = nn.Embedding(len(graph.RELATIONS), heads)
        self.of_attributes = nn.Linear(len(features.EDGE), heads, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.xavier_uniform_(self.of_source)
        nn.init.xavier_uniform_(self.of_target)

    def forward(self, h: Tensor, inputs: Inputs) -> Tensor:
        """[N, width_in] to [N, width]; a node without an edge gets the bias."""
        values = self.values(h).view(-1, self.heads, self.width)
        score = (
            (values * self.of_source).sum(-1).index_select(0, inputs.source)
            + (values * self.of_target).sum(-1).index_select(0, inputs.target)
            + self.of_relation(inputs.relation)
            + self.of_attributes(inputs.attributes)
        )
        weight = _softmax(functional.leaky_relu(score, 0.2), inputs.target, len(h))
        # The mean over the heads is taken of the messages: a fourth of the sums over edges.
        message = (values.index_select(0, inputs.source) * (weight / self.heads).unsqueeze(2)).sum(1)
        return torch.zeros(len(h), self.width).index_add_(0, inputs.target, message) + self.bias


class TamiyoNet(nn.Module):
    """The policy's network; `TamiyoNet(PRESETS["small"])` by default. Weights begin by torch's global generator."""

    def __init__(self, settings: Settings = PRESETS["small"]) -> None:
        super().__init__()
        self.settings = settings
        wide, narrow, sizes = settings.sage, settings.gat, settings.sizes
        self.embed = nn.ModuleDict(
            {name: nn.Embedding(each.capacity, settings.embedding) for name, each in _REGISTRIES.items()}
        )
        self.encode = nn.ModuleDict()
        for name in _NODE_TYPES:
            columns = sizes.width(name) + (settings.embedding if name in _REGISTRIES else 0)
            self.encode[name] = nn.Sequential(nn.Linear(columns, wide), nn.GELU(), nn.LayerNorm(wide))
        self.sage = nn.ModuleList([GraphSAGE(wide, wide), GraphSAGE(wide, wide)])
        self.gat = nn.ModuleList([GAT(wide, narrow, settings.heads), GAT(narrow, narrow, settings.heads)])
        self.dropout = nn.Dropout(settings.dropout)
        whole, hidden = 2 * narrow, narrow
        self.of_action = nn.Linear(sizes.action, hidden)
        self.of_kind = nn.Embedding(registries.KINDS.capacity, hidden)
        self.of_whole = nn.Linear(whole, hidden, bias=False)
        self.of_slot = nn.Linear(narrow, hidden, bias=False)
        self.of_blueprint = nn.Linear(narrow, hidden, bias=False)
        self.between = nn.Sequential(nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.logit = nn.Linear(hidden, 1)
        self.prior = nn.Embedding(registries.KINDS.capacity, 1)
        self.value = _head(whole, 64, 1)
        self.risk = _head(whole, 64, RISKS, dropout=0.1)
        self.breaker = _head(whole, 32, 2)
        self.params = _head(narrow + whole, 32, PARAMETERS)
        self.blending = _head(narrow + whole, 32, len(registries.BLENDINGS.keys))
        self.schedule = _head(narrow + whole, 32, 2)
        self._begin()

    def _begin(self) -> None:
        """Xavier for what is linear; the logits begin as a preference for doing nothing, whatever the state."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.1)
        nn.init.zeros_(self.logit.weight)
        with torch.no_grad():
            self.prior.weight.fill_(-0.5)
            self.prior.weight[registries.KINDS.index("nothing")] = 0.5

    def forward(self, batch: HeteroData | Graph | Inputs) -> Outputs:
        """For one graph, or a `torch_geometric.data.Batch` of graphs that `Graph.to_hetero` made."""
        inputs = batch if isinstance(batch, Inputs) else to_inputs(batch)
        h, first, counts = self._encoded(inputs)
        for stage in self.sage:
            h = h + self.dropout(functional.gelu(stage(h, inputs)))
        for stage in self.gat:
            new = self.dropout(functional.gelu(stage(h, inputs)))
            h = h + new if h.shape == new.shape else new
        return self._heads(h, inputs, first, counts)

    def _encoded(self, inputs: Inputs) -> tuple[Tensor, dict[str, int], dict[str, int]]:
        rows, first, counts, at = [], {}, {}, 0
        for name in _NODE_TYPES:
            x = inputs.x[name]
            if name in _REGISTRIES:
                x = torch.cat([x, self.embed[name](inputs.registry[name])], dim=1)
            rows.append(self.encode[name](x))
            first[name], counts[name] = at, len(x)
            at += len(x)
        return torch.cat(rows), first, counts

    def _heads(self, h: Tensor, inputs: Inputs, first: Mapping[str, int], counts: Mapping[str, int]) -> Outputs:
        of_type = {name: h[first[name] : first[name] + counts[name]] for name in ("global", "seed", "layer")}
        sums = torch.zeros_like(of_type["global"]).index_add_(0, inputs.graph_of_layer, of_type["layer"])
        many = torch.bincount(inputs.graph_of_layer, minlength=inputs.graphs).clamp(min=1)
        whole = torch.cat([of_type["global"], sums / many.unsqueeze(1)], dim=1)
        pair = (
            self.of_action(inputs.action)
            + self.of_kind(inputs.kind)
            + self.of_whole(whole).index_select(0, inputs.graph_of_action)
            + functional.pad(self.of_slot(h), (0, 0, 0, 1)).index_select(0, inputs.slot)
            + functional.pad(self.of_blueprint(h), (0, 0, 0, 1)).index_select(0, inputs.blueprint)
        )
        logits = (self.logit(self.between(pair)) + self.prior(inputs.kind)).squeeze(1)
        slots = torch.cat([of_type["seed"], whole[inputs.graph_of_layer]], dim=1)
        schedule = torch.sigmoid(self.schedule(slots))
        return Outputs(
            logits=logits,
            value=self.value(whole).squeeze(1),
            risk=self.risk(whole),
            params=torch.tanh(self.params(slots)),
            blending=self.blending(slots),
            schedule=torch.stack([schedule.amin(1), schedule.amax(1)], dim=1),
            breaker=self.breaker(whole),
            graph_of_action=inputs.graph_of_action,
            graph_of_slot=inputs.graph_of_layer,
            choosable=inputs.choosable,
        )


def make(preset: str = "small", seed: int = 0) -> TamiyoNet:
    """A fresh network whose weights follow from `seed` alone. Raises InvalidInput for an unknown preset."""
    if preset not in PRESETS:
        raise InvalidInput(f"there is no preset {preset!r} of Tamiyo's network; choose {', '.join(PRESETS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TamiyoNet(PRESETS[preset])


def _head(width: int, hidden: int, out: int, *, dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out))


# ----------------------------------------------------------------------------------------------------- sums over edges


def _mean(h: Tensor, source: Tensor, target: Tensor) -> Tensor:
    sums = torch.zeros_like(h).index_add_(0, target, h.index_select(0, source))
    return sums / torch.bincount(target, minlength=len(h)).clamp(min=1).unsqueeze(1)


def _largest(h: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """0 where a node has no such edge, as torch_geometric's."""
    index = target.unsqueeze(1).expand(-1, h.shape[1])
    return torch.zeros_like(h).scatter_reduce_(0, index, h.index_select(0, source), "amax", include_self=False)


def _softmax(score: Tensor, target: Tensor, nodes: int) -> Tensor:
    """Over the edges into each node, [E, heads]."""
    index = target.unsqueeze(1).expand_as(score)
    largest = torch.zeros(nodes, score.shape[1]).scatter_reduce_(0, index, score.detach(), "amax", include_self=False)
    weight = torch.exp(score - largest[target])
    return weight / torch.zeros_like(largest).index_add_(0, target, weight)[target]


# -------------------------------------------------------------------------------------------------------------- inputs

_BY_MAX: Final = np.array([name in graph.BY_MAX for _, name, _ in graph.RELATIONS])


def to_inputs(given: HeteroData | Graph) -> Inputs:
    """The tensors of a graph, or of one or many as torch_geometric holds them."""
    return _of_graph(given) if isinstance(given, Graph) else _of_hetero(given)


def _of_graph(given: Graph) -> Inputs:
    table, count = given.actions, len(given.actions.kind)
    first = _first({name: len(rows) for name, rows in given.x.items()})
    nodes = sum(len(rows) for rows in given.x.values())
    index = np.concatenate(
        [each.index + _shift(first, relation) for relation, each in given.edges.items()], axis=1, dtype=np.int64
    )
    attributes = np.concatenate([each.attributes for each in given.edges.values()])
    numbers = [np.full(each.index.shape[1], _NUMBER[relation]) for relation, each in given.edges.items()]
    relation = np.concatenate(numbers)
    order = np.argsort(index[1], kind="stable")
    index, attributes, relation = index[:, order], attributes[order], relation[order]
    no_graph = torch.zeros(count, dtype=torch.int64)
    return Inputs(
        x={name: torch.from_numpy(rows) for name, rows in given.x.items()},
        registry={name: torch.from_numpy(rows) for name, rows in given.registry.items()},
        source=torch.from_numpy(np.ascontiguousarray(index[0])),
        target=torch.from_numpy(np.ascontiguousarray(index[1])),
        relation=torch.from_numpy(relation),
        attributes=torch.from_numpy(attributes),
        of_mean=torch.from_numpy(np.flatnonzero(~_BY_MAX[relation])),
        of_max=torch.from_numpy(np.flatnonzero(_BY_MAX[relation])),
        action=torch.from_numpy(table.x),
        kind=torch.from_numpy(table.kind),
        slot=torch.from_numpy(np.where(table.seed >= 0, table.seed + first["seed"], nodes)),
        blueprint=torch.from_numpy(np.where(table.blueprint >= 0, table.blueprint + first["blueprint"], nodes)),
        choosable=torch.from_numpy(table.choosable),
        graph_of_action=no_graph,
        graph_of_layer=torch.zeros(len(given.x["layer"]), dtype=torch.int64),
        graphs=1,
    )


_NUMBER: Final = {relation: number for number, relation in enumerate(graph.RELATIONS)}


def _first(counts: Mapping[str, int]) -> dict[str, int]:
    """The number of each type's first node, where the types follow each other."""
    first, at = {}, 0
    for name in _NODE_TYPES:
        first[name] = at
        at += counts[name]
    return first


def _shift(first: Mapping[str, int], relation: graph.Relation) -> np.ndarray[Any, Any]:
    return np.array([[first[relation[0]]], [first[relation[2]]]])


def _of_hetero(data: HeteroData) -> Inputs:
    first = _first({name: len(data[name].x) for name in _NODE_TYPES})
    sources, targets, numbers, attributes = [], [], [], []
    for relation, number in _NUMBER.items():
        index = data[relation].edge_index
        sources.append(index[0] + first[relation[0]])
        targets.append(index[1] + first[relation[2]])
        numbers.append(torch.full((index.shape[1],), number))
        attributes.append(data[relation].edge_attr)
    target, order = torch.sort(torch.cat(targets), stable=True)
    of_edge = torch.cat(numbers)[order]
    action = data["action"]
    return Inputs(
        x={name: data[name].x for name in _NODE_TYPES},
        registry={name: data[name].registry for name in _NODE_TYPES},
        source=torch.cat(sources)[order],
        target=target,
        relation=of_edge,
        attributes=torch.cat(attributes)[order],
        of_mean=torch.from_numpy(~_BY_MAX)[of_edge].nonzero().squeeze(1),
        of_max=torch.from_numpy(_BY_MAX)[of_edge].nonzero().squeeze(1),
        action=action.x,
        kind=action.kind,
        slot=_end_of(data, "at", "seed", first),
        blueprint=_end_of(data, "of", "blueprint", first),
        choosable=action.choosable,
        graph_of_action=_graph_of(data, "action"),
        graph_of_layer=_graph_of(data, "layer"),
        graphs=len(data["global"].x),
    )


def _graph_of(data: HeteroData, node_type: str) -> Tensor:
    found: Tensor | None = data[node_type].get("batch")
    return torch.zeros(len(data[node_type].x), dtype=torch.int64) if found is None else found


def _end_of(data: HeteroData, name: str, target: str, first: Mapping[str, int]) -> Tensor:
    """The node that each action has by a relation; the number behind the last node where it has none."""
    index = data["action", name, target].edge_index
    nodes = sum(len(data[each].x) for each in _NODE_TYPES)
    node = torch.full((len(data["action"].x),), nodes)
    node[index[0]] = index[1] + first[target]
    return node
