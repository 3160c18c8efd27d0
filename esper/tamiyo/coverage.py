"""How much of what a policy looks at was known, and the event where that is too little (R-TAM-7).

By key (`layer.evidence`: the share of layer nodes that have any) and by family, weighted by how many values there are
(`node.layer`, `edges.feeds`). Knows no numpy: it judges numbers that a graph brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from contracts.leyline.v1.leyline_pb2 import (
    TELEMETRY_LEVEL_CRITICAL,
    TELEMETRY_LEVEL_INFO,
    TelemetryEvent,
    TelemetryPacket,
)
from esper.tamiyo import features

if TYPE_CHECKING:
    from esper.tamiyo.graph import Graph

CRITICAL: Final = 0.10
LOW: Final = 0.30
FAMILIES: Final = ("node.", "edges.")
WORST: Final = 8
"""So many keys are named in an event, the least known first."""
_NOT_MEASURED_ALWAYS: Final = ("contribution", "change", "since_germination", "kept_share", "loss_delta", "hazard")
"""What is absent for good reasons most of the time: a figure of a seed that does not live, of a past that is short."""


def of_graph(graph: Graph) -> dict[str, float]:
    """The share of each optional column that is known, and of each node type and relation."""
    found, edges = dict[str, float](), dict[str, float]()
    for node_type, names in features.NODES.items():
        rows = graph.x[node_type]
        masks = [at for at, name in enumerate(names) if name.endswith("?") and name[:-1] not in _NOT_MEASURED_ALWAYS]
        if not masks or not len(rows):
            continue
        for at in masks:
            found[f"{node_type}.{names[at][:-1]}"] = float(rows[:, at].mean())
        found[f"node.{node_type}"] = float(rows[:, masks].mean())
    for (_, name, _), relation in graph.edges.items():
        if len(relation.attributes) and not name.startswith("rev_"):
            edges[f"edges.{name}"] = float(relation.attributes[:, -1].mean())
    return found | edges


def mean(coverage: Mapping[str, float]) -> float:
    """Over all keys, unknown ones as 0; 1 where there are none that can be absent."""
    keys = [value for key, value in coverage.items() if not key.startswith(FAMILIES)]
    return sum(keys) / len(keys) if keys else 1.0


def degraded(coverage: Mapping[str, float], at_ns: int) -> TelemetryPacket | None:
    """The telemetry that says that a decision was made half blind; None where enough was known."""
    known = mean(coverage)
    if known >= LOW:
        return None
    level = TELEMETRY_LEVEL_CRITICAL if known <= CRITICAL else TELEMETRY_LEVEL_INFO
    worst = sorted(coverage, key=lambda key: (coverage[key], key))[:WORST]
    event = TelemetryEvent(
        event_id="degraded_inputs",
        description=f"{known:.0%} of what the policy looks at was known; least: {', '.join(worst)}",
        level=level,
        attributes={key: f"{coverage[key]:.3f}" for key in worst},
    )
    packet = TelemetryPacket(source_subsystem="tamiyo", level=level, events=[event])
    packet.timestamp.FromNanoseconds(at_ns)
    return packet
