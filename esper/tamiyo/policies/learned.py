"""The learned policy: the graph of the observation, the network's logit for every action.

It is a policy like the others: pure, with a digest, which is over its name, its version and the SHA-256 of its weights.
Its decision is served deterministic: no dropout, no autograd, one thread. Imports torch; `esper.tamiyo.policies` does
so only when a learned policy is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from contracts.leyline.v1.event_pb2 import EpochCompleted
from esper.errors import InvalidInput
from esper.leyline.objects import ObjectStore
from esper.tamiyo.actions import Action
from esper.tamiyo.coverage import of_graph
from esper.tamiyo.graph import build
from esper.tamiyo.policy import Advice, Policy
from esper.tamiyo.served import Served
from esper.tamiyo.weights import Loaded, load

NAME: Final = "learned"
NOT_CHOSEN: Final = -1e4
"""The logit of a germination that another of its slot dominates: never taken, never not a number."""

NO_CANDIDATES: Final = "no_seed_candidates: nothing can germinate now, and no seed can be fossilized or culled"


def policy(weights: str | Path | bytes | Loaded, objects: ObjectStore | None = None) -> Policy:
    """The policy of these weights: a file, its place in `objects` (sha256:...), its bytes, or what was read of them.

    Raises InvalidInput where there is no such file or object, `esper.tamiyo.weights.Refused` where it is no policy that
    this Esper can serve.
    """
    loaded = weights if isinstance(weights, Loaded) else load(_content(weights, objects))
    served = Served(loaded.network)
    return Policy(
        NAME,
        loaded.version,
        greedy=True,
        advise=lambda state, actions, mask: advise(loaded, served, state, actions, mask),
        weights=loaded.digest.hex(),
        action_set=loaded.action_set,
        risk_engine=loaded.risk_engine,
    )


def _content(weights: str | Path | bytes, objects: ObjectStore | None) -> bytes:
    if isinstance(weights, bytes):
        return weights
    if isinstance(weights, str) and weights.startswith("sha256:"):
        if objects is None:
            raise InvalidInput(f"{weights} is an object, and no object store to read it from was given")
        return objects.get(weights)
    try:
        return Path(weights).read_bytes()
    except OSError as error:
        raise InvalidInput(f"a policy's weights cannot be read: {error}") from None


def advise(
    loaded: Loaded, served: Served, state: EpochCompleted, actions: Sequence[Action], mask: Sequence[bool]
) -> Advice:
    """A logit for every action, those that another of the same slot dominates far below; and the value of the state.

    Where nothing but waiting is legal the network is not asked (ruling 35).
    """
    if sum(mask) == 1:
        return Advice([0.0 if legal else -1.0 for legal in mask], lambda _index: NO_CANDIDATES)
    threads = torch.get_num_threads()
    if threads != 1:
        torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            graph = build(state, actions, loaded.network.settings.sizes)
            rows = np.flatnonzero(graph.actions.choosable)
            found, value = served.act(graph, rows)
            scores = np.full(len(actions), NOT_CHOSEN, dtype=np.float32)
            scores[rows] = found.numpy()
            logits: list[float] = scores.tolist()
    finally:
        if threads != 1:
            torch.set_num_threads(threads)

    def reason(index: int) -> str:
        best = max((at for at, legal in enumerate(mask) if legal), key=lambda at: logits[at])
        other = max(
            (at for at, legal in enumerate(mask) if legal and at != index), key=lambda at: logits[at], default=index
        )
        if index != best:
            return f"the learned policy {loaded.version} gives {actions[index]} {logits[index]:.2f}"
        beside = "" if other == index else f", {actions[other]} {logits[other]:.2f}"
        return f"the learned policy {loaded.version} gives {actions[index]} {logits[index]:.2f}{beside}"

    return Advice(logits, reason, value, of_graph(graph))
