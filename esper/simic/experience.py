"""Experience: what one recorded decision teaches, with where it comes from; graphs of many in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esper.errors import InvalidInput

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an experience comes from: ids of its events, the policy that decided, and the report on its command."""

    decision_id: bytes
    run_id: str
    task: str
    epoch: int
    policy: str
    policy_version: str
    command_id: bytes | None = None
    seed_id: str = ""
    blueprint_id: str = ""
    outcome: int = 0
    window_epochs: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Experience:
    """One decision: the graph that was seen, what was legal (actions) and taken, and what came of it.

    `log_probability` is the behaviour's, of the action taken. `reward` is paid for this decision, `ended` says that the
    run made no other after it. `utilities` (actions) is what each action came to where that was simulated, not a number
    elsewhere. `generation` counts the promotions before it was decided: it expires by them.
    """

    provenance: Provenance
    graph: HeteroData
    mask: Tensor
    action: int
    log_probability: float
    reward: float = 0.0
    ended: bool = False
    utilities: Tensor | None = None
    generation: int = 0

    @property
    def key(self) -> tuple[bytes, str]:
        """Under this it is stored once: its command, or its decision where there was none, and its run (R-SIM-2)."""
        return self.provenance.command_id or self.provenance.decision_id, self.provenance.run_id

    @property
    def nbytes(self) -> int:
        """What its tensors take in memory."""
        graph_bytes = sum(each.nbytes for store in self.graph.stores for each in store.values() if _is_tensor(each))
        own = (self.mask, self.utilities)
        return int(graph_bytes) + sum(each.nbytes for each in own if each is not None)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def broken(data: HeteroData) -> str:
    """What is wrong with a graph, or nothing: an edge to a node that is not there, or a number that is none."""
    counts = {name: data[name].num_nodes or 0 for name in data.node_types}
    for source, name, target in data.edge_types:
        index = data[source, name, target].edge_index
        for row, end in enumerate((source, target)):
            if end not in counts or (
                index.numel() and not 0 <= int(index[row].min()) <= int(index[row].max()) < counts[end]
            ):
                return f"{source}-{name}->{target} has an edge to a node that is not there"
    for store in data.stores:
        for name, value in store.items():
            if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
                return f"{store._key} has a number in {name} that is none"  # noqa: SLF001 - the store's only name
    return ""


def batched(experiences: Sequence[Experience]) -> HeteroData:
    """One graph of all their graphs, in order; raises InvalidInput where that loses a node or an edge (R-SIM-11).

    What `torch_geometric.data.Batch.from_data_list` makes of them, tensor by tensor, in a fraction of its time: their
    stores are known to be alike.
    """
    from torch_geometric.data import HeteroData  # noqa: PLC0415 - 1.3 s and 96 MB, for who batches

    graphs = [each.graph for each in experiences]
    whole, first = HeteroData(), dict[str, Tensor]()
    for name in graphs[0].node_types:
        stores = [each[name] for each in graphs]
        counts = torch.tensor([store.num_nodes for store in stores])
        first[name] = counts.cumsum(0) - counts
        for key in stores[0].keys():  # noqa: SIM118 - of a store, which is no dict
            whole[name][key] = torch.cat([store[key] for store in stores])
        whole[name].batch = torch.arange(len(graphs)).repeat_interleave(counts)
    for relation in graphs[0].edge_types:
        stores = [each[relation] for each in graphs]
        shift = torch.stack([first[relation[0]], first[relation[2]]])
        counts = torch.tensor([store.edge_index.shape[1] for store in stores])
        for key in stores[0].keys():  # noqa: SIM118
            joined = torch.cat([store[key] for store in stores], dim=1 if key == "edge_index" else 0)
            whole[relation][key] = joined + shift.repeat_interleave(counts, 1) if key == "edge_index" else joined
    for what in ("num_nodes", "num_edges"):
        parts, found = sum(getattr(each, what) for each in graphs), getattr(whole, what)
        if parts != found:
            raise InvalidInput(f"a batch of {len(graphs)} graphs has {found} {what}, and its parts {parts}")
    return whole
