"""What becomes experience: rows of the projection `experience`, checked; what is refused is counted by its reason.

A row is taken once its run has ended, because what a run is worth is paid at its end alone. The same row gives the same
experience in every process: the graph is built from the observation's stored bytes, and its features go by key.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import torch
from google.protobuf.message import DecodeError

from contracts.leyline.v1.event_pb2 import EpochCompleted
from esper.errors import EsperError
from esper.leyline.objects import ObjectStore
from esper.simic.choice import draws, recorded_log_probability
from esper.simic.experience import Experience, Provenance, broken
from esper.simic.utility import Ending, utility
from esper.tamiyo import graph
from esper.tamiyo.actions import EVERYTHING, SEEDS_ONLY, Action, legal_actions

MOST_REWARD: Final = 1e3
"""Nats. A run that ends with a loss beyond it has diverged, and what it says is not learnt from as a number."""


@dataclass(slots=True)
class Taken:
    """What became of some rows: experiences in order, and how many were refused, by reason."""

    experiences: list[Experience] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


class _Refused(Exception):
    """Raised with the reason."""


Generation = Callable[[str, str], int]
"""From a policy's name and version to how many promotions came before it; 0 for a policy that was never promoted."""


def take_rows(
    rows: Iterable[Mapping[str, Any]],
    objects: ObjectStore,
    *,
    price: float,
    sizes: graph.Sizes = graph.NAMED,
    generation: Generation = lambda _policy, _version: 0,
) -> Taken:
    """The experiences of all runs that have ended; `rows` are those of the view `experience`, by run and in order.

    The last decision of a run gets the run's utility at `price` as its reward, the others 0. Refused and counted, with
    the whole run where its worth is unknown: `running`, `no control`, `reward out of range`, `observation missing`,
    `observation changed`, `no such actions`, `illegal action`, `broken graph`.
    """
    taken = Taken()
    for _, of_run in groupby(rows, key=itemgetter("run_id")):
        run = list(of_run)
        try:
            worth = _worth(run, price)
        except _Refused as error:
            taken.refused[str(error)] += len(run)
            continue
        found: list[Experience] = []
        for row in run:
            try:
                found.append(_experience(row, objects, sizes, generation))
            except _Refused as error:
                taken.refused[str(error)] += 1
        if found:
            found[-1] = replace(found[-1], reward=worth, ended=True)
        taken.experiences += found
    return taken


def _worth(run: Sequence[Mapping[str, Any]], price: float) -> float:
    last = run[-1]
    if last["run_status"] is None:
        raise _Refused("running")
    control = last["control_flops"]
    if price and not control:
        raise _Refused("no control")
    ending = Ending(
        loss=last["probe_loss"],
        accuracy=last["probe_accuracy"] or 0.0,
        training_flops=last["flops"],
        flops=last["flops"],
        params=last["params"],
        status=last["run_status"],
    )
    worth = utility(ending, control or 1.0, price)
    if not math.isfinite(worth) or abs(worth) > MOST_REWARD:
        raise _Refused("reward out of range")
    return worth


def _experience(row: Mapping[str, Any], objects: ObjectStore, sizes: graph.Sizes, generation: Generation) -> Experience:
    state = EpochCompleted.FromString(_observation(row, objects))
    names, mask = list(row["actions"]), [bool(each) for each in row["action_mask"]]
    actions = _actions(state, names)
    if actions is None or len(mask) != len(names):
        raise _Refused("no such actions")
    taken = int(row["action"])
    if not (taken < len(actions) and mask[taken]):
        raise _Refused("illegal action")
    seen = graph.build(state, actions, sizes).to_hetero()
    problem = broken(seen)
    if problem:
        raise _Refused("broken graph")
    policy, version = str(row["policy"]), str(row["policy_version"])
    legal = mask[: len(actions)]
    return Experience(
        provenance=_provenance(row),
        graph=seen,
        mask=torch.tensor(legal),
        action=taken,
        log_probability=recorded_log_probability(row["logits"], mask, taken) if draws(policy) else 0.0,
        generation=generation(policy, version),
    )


def _actions(state: EpochCompleted, names: list[str]) -> list[Action] | None:
    """What the policy chose from, of the larger action set or the smaller; None where it was neither.

    What the risk engine put in an action's place stands behind those of the state; the network never sees it.
    """
    for action_set in (EVERYTHING, SEEDS_ONLY):
        actions, _ = legal_actions(state, action_set)
        if [str(action) for action in actions] == names[: len(actions)]:
            return actions
    return None


def _observation(row: Mapping[str, Any], objects: ObjectStore) -> bytes:
    try:
        stored = bytes(row["observation"] or b"") or objects.get(row["observation_ref"])
        EpochCompleted.FromString(stored)
    except (EsperError, TypeError, DecodeError):
        raise _Refused("observation missing") from None
    if hashlib.sha256(stored).digest() != bytes(row["observation_hash"]):
        raise _Refused("observation changed")
    return stored


_METRICS: Final = ("loss_delta", "loss_delta_min", "loss_delta_max", "report_hook_ms", "risk", "value_estimate")


def _provenance(row: Mapping[str, Any]) -> Provenance:
    command = row["command_id"]
    return Provenance(
        decision_id=bytes(row["decision_id"]),
        run_id=str(row["run_id"]),
        task=str(row["task"] or ""),
        epoch=int(row["epoch"]),
        policy=str(row["policy"]),
        policy_version=str(row["policy_version"]),
        command_id=None if command is None else bytes(command),
        seed_id=str(row["seed_id"] or ""),
        blueprint_id=str(row["blueprint_id"] or ""),
        outcome=int(row["report_outcome"] or 0),
        window_epochs=int(row["window_epochs"] or 0),
        metrics={name: float(row[name]) for name in _METRICS if row[name] is not None},
    )
