"""Tamiyo's network as it serves: the same function as `esper.tamiyo.network`, arranged for one graph and one thread.

A decision is waited for, and a graph of a few hundred nodes is so small that what an operation costs to begin is more
than what it computes. So weights are put together once for every pair of operations that can be one, the figures of
edges that no stage changes are computed once for all stages, sums over edges are `embedding_bag`s over edges sorted by
target, and only what a decision needs is computed: the value, and the logits of the actions that may be chosen. A test
holds it to the network. The same inputs give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from esper.tamiyo import features, graph
from esper.tamiyo.graph import Graph
from esper.tamiyo.network import GAT, GraphSAGE, TamiyoNet

_NODE_TYPES: Final = tuple(features.NODES)
_RELATIONS: Final = tuple(graph.RELATIONS)
_BY_MAX: Final = np.array([name in graph.BY_MAX for _, name, _ in _RELATIONS])
FAR_APART: Final = 60.0
"""Scores of attention that differ by less than this can be exponentiated beside each other: e^-60 is a float32."""


@dataclass(frozen=True, slots=True)
class _Edges:
    """All edges over the nodes of all types, sorted by target. `bags` says where each node's begin, (nodes + 1)."""

    source: NDArray[np.int64]
    bags: NDArray[np.int64]

    @classmethod
    def of(cls, source: NDArray[np.int64], target: NDArray[np.int64], nodes: int) -> _Edges:
        """Of edges that are sorted by target already."""
        bags = np.zeros(nodes + 1, dtype=np.int64)
        np.cumsum(np.bincount(target, minlength=nodes), out=bags[1:])
        return cls(source, bags)


class _Sage:
    """One GraphSAGE stage: a single product over node, mean and largest side by side."""

    def __init__(self, stage: GraphSAGE) -> None:
        weights = (stage.own.weight, stage.mean.weight, stage.largest.weight)
        self.weight = torch.cat(weights, dim=1).t().contiguous()
        self.bias = stage.own.bias

    def __call__(self, h: Tensor, mean: _Bags, largest: _Bags) -> Tensor:
        beside = torch.cat(
            [
                h,
                functional.embedding_bag(mean.source, h, mean.offsets, mode="mean", include_last_offset=True),
                functional.embedding_bag(largest.source, h, largest.offsets, mode="max", include_last_offset=True),
            ],
            dim=1,
        )
        return h + functional.gelu(torch.addmm(self.bias, beside, self.weight))


@dataclass(frozen=True, slots=True)
class _Bags:
    source: Tensor
    offsets: Tensor


class _Attention:
    """One GAT stage: values and both scores of a node are one product."""

    def __init__(self, stage: GAT) -> None:
        self.heads, self.width = stage.heads, stage.width
        values = stage.values.weight.view(stage.heads, stage.width, -1)
        scores = [(values * vector.unsqueeze(2)).sum(1) for vector in (stage.of_source, stage.of_target)]
        self.weight = torch.cat([stage.values.weight, *scores]).t().contiguous()
        self.of_relation, self.of_attributes = stage.of_relation.weight, stage.of_attributes.weight.t()
        self.bias = stage.bias

    def __call__(self, h: Tensor, edges: _Attended, of_edge: Tensor) -> Tensor:
        wide = self.heads * self.width
        made = h @ self.weight
        ends = made[:, wide:]
        score = functional.leaky_relu(
            ends[:, : self.heads].index_select(0, edges.source)
            + ends[:, self.heads :].index_select(0, edges.target)
            + of_edge,
            0.2,
        )
        weight = torch.exp(score - edges.largest(score))
        sums = torch.zeros(len(h), self.heads).index_add_(0, edges.target, weight)
        weight = weight / (self.heads * sums).index_select(0, edges.target)
        out = functional.embedding_bag(
            edges.heads,
            made[:, :wide].reshape(-1, self.width),
            edges.offsets,
            mode="sum",
            per_sample_weights=weight.view(-1),
            include_last_offset=True,
        )
        new = functional.gelu(out + self.bias)
        return h + new if h.shape == new.shape else new


@dataclass(frozen=True, slots=True)
class _Attended:
    """The edges as attention takes them; `heads` are rows of the values, one for each head of an edge's source."""

    source: Tensor
    target: Tensor
    heads: Tensor
    offsets: Tensor

    def largest(self, score: Tensor) -> Tensor:
        """What to take off the scores: of each head the largest of all, where none is too far below it."""
        if not len(score):
            return score
        most = score.amax(0, keepdim=True)
        if float((most - score.amin(0)).max()) < FAR_APART:
            return most
        index = self.target.unsqueeze(1).expand_as(score)
        nodes = int(self.target[-1]) + 1
        of_node = torch.zeros(nodes, score.shape[1]).scatter_reduce_(0, index, score, "amax", include_self=False)
        return of_node[self.target]


class Served:
    """`network` as it serves; it must not be trained afterwards. Call `act` under `torch.inference_mode`."""

    def __init__(self, network: TamiyoNet) -> None:
        with torch.no_grad():
            self._encode = {name: _encoder(network, name) for name in _NODE_TYPES}
            norms = [network.encode[name][2] for name in _NODE_TYPES]  # type: ignore[index]
            self._scale = torch.stack([each.weight for each in norms])
            self._shift = torch.stack([each.bias for each in norms])
            self._wide = network.settings.sage
            self._sage = [_Sage(stage) for stage in network.sage]  # type: ignore[arg-type]
            self._gat = [_Attention(stage) for stage in network.gat]  # type: ignore[arg-type]
            self._of_relation = torch.cat([stage.of_relation for stage in self._gat], dim=1)
            self._of_attributes = torch.cat([stage.of_attributes for stage in self._gat], dim=1).contiguous()
            self._heads_of_edge = network.settings.heads
            self._of_action = network.of_action.weight.t().contiguous()
            self._of_kind = network.of_kind.weight + network.of_action.bias
        self._network = network

    def act(self, given: Graph, rows: NDArray[np.int64]) -> tuple[Tensor, float]:
        """The logits of the actions with these numbers, and the value of the state."""
        first = _first(given)
        h = self._encoded(given)
        mean, largest, edges, attributes, relation = _edges(given, first, len(h), self._heads_of_edge)
        of_edge = torch.addmm(self._of_relation.index_select(0, relation), attributes, self._of_attributes)
        for stage in self._sage:
            h = stage(h, mean, largest)
        for attention, part in zip(self._gat, of_edge.chunk(len(self._gat), dim=1), strict=True):
            h = attention(h, edges, part)
        return self._heads(h, given, first, rows)

    def _encoded(self, given: Graph) -> Tensor:
        """The rows of all nodes behind their encoders, type by type."""
        counts = [len(given.x[name]) for name in _NODE_TYPES]
        h, at = torch.empty(sum(counts), self._wide), 0
        for name, count in zip(_NODE_TYPES, counts, strict=True):
            weight, table = self._encode[name]
            bias = table.index_select(0, torch.from_numpy(given.registry[name])) if len(table) > 1 else table
            torch.addmm(bias, torch.from_numpy(given.x[name]), weight, out=h[at : at + count])
            at += count
        of_type = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
        even = functional.layer_norm(functional.gelu(h), (self._wide,))
        return torch.addcmul(self._shift.index_select(0, of_type), even, self._scale.index_select(0, of_type))

    def _heads(self, h: Tensor, given: Graph, first: dict[str, int], rows: NDArray[np.int64]) -> tuple[Tensor, float]:
        network, table = self._network, given.actions
        layers = h[first["layer"] : first["activation"]]
        mean = layers.mean(0) if len(layers) else torch.zeros(h.shape[1])
        whole = torch.cat([h[0], mean]).unsqueeze(0)
        seeds, blueprints = h[first["seed"] : first["blueprint"]], h[first["blueprint"] : first["layer"]]
        nowhere = torch.zeros(1, network.of_whole.out_features)
        of_slot = torch.cat([seeds @ network.of_slot.weight.t(), nowhere])
        of_blueprint = torch.cat([blueprints @ network.of_blueprint.weight.t(), nowhere])
        kind = torch.from_numpy(table.kind[rows])
        slot, blueprint = (torch.from_numpy(each[rows]) for each in (table.seed, table.blueprint))
        pair = torch.addmm(of_slot[slot], torch.from_numpy(table.x[rows]), self._of_action)
        pair += of_blueprint[blueprint]
        pair += (self._of_kind + network.of_whole(whole)).index_select(0, kind)
        logits = (network.logit(network.between(pair)) + network.prior(kind)).squeeze(1)
        return logits, float(network.value(whole))


def _encoder(network: TamiyoNet, name: str) -> tuple[Tensor, Tensor]:
    """The product of a node type's columns, and what is added to it: a row for each index of its registry, or one."""
    linear: Any = network.encode[name][0]  # type: ignore[index]
    columns = network.settings.sizes.width(name)
    weight, of_registry = linear.weight[:, :columns], linear.weight[:, columns:]
    table = linear.bias.unsqueeze(0)
    if of_registry.shape[1]:
        table = table + network.embed[name].weight @ of_registry.t()
    return weight.t().contiguous(), table.contiguous()


def _first(given: Graph) -> dict[str, int]:
    """The number of each type's first node, where the types follow each other."""
    first, at = {}, 0
    for name in _NODE_TYPES:
        first[name] = at
        at += len(given.x[name])
    return first


def _edges(
    given: Graph, first: dict[str, int], nodes: int, heads: int
) -> tuple[_Bags, _Bags, _Attended, Tensor, Tensor]:
    """All edges sorted by target: those of which the mean is taken, the largest, and all with their attributes."""
    found = [given.edges[relation] for relation in _RELATIONS]
    counts = [each.index.shape[1] for each in found]
    relation = np.repeat(np.arange(len(found)), counts)
    shifts = np.array([[first[source] for source, _, _ in _RELATIONS], [first[target] for _, _, target in _RELATIONS]])
    index = np.concatenate([each.index for each in found], axis=1) + np.repeat(shifts, counts, axis=1)
    attributes = np.concatenate([each.attributes for each in found])
    # Few nodes have small numbers, which sort by radix.
    order = np.argsort(index[1].astype(np.uint16) if nodes < 2**16 else index[1], kind="stable")
    source, target, relation, attributes = index[0][order], index[1][order], relation[order], attributes[order]
    by_max = _BY_MAX[relation]
    every = _Edges.of(source, target, nodes)
    mean, largest = (_Edges.of(source[which], target[which], nodes) for which in (~by_max, by_max))
    of_head = (source[:, None] * heads + np.arange(heads)).reshape(-1)
    attended = _Attended(*(torch.from_numpy(each) for each in (source, target, of_head, every.bags * heads)))
    of_mean, of_largest = (_Bags(torch.from_numpy(e.source), torch.from_numpy(e.bags)) for e in (mean, largest))
    return of_mean, of_largest, attended, torch.from_numpy(attributes), torch.from_numpy(relation)
