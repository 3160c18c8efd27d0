"""A run's state as a whole: captured, digested, compared and restored."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

from contracts.leyline.v1.event_pb2 import LastDecision, StateDigested
from esper.errors import CorruptState
from esper.tamiyo import normalizer
from esper.tolaria.encoded import decode, encode, own_streams, set_own_streams
from esper.tolaria.run import Chain, Run
from esper.tolaria.state import (
    PROGRESS,
    Digest,
    FlatState,
    Pin,
    digest,
    digested,
    flatten,
    unflatten,
)


def capture(run: Run) -> FlatState:
    """A copy of everything that decides what the run computes next: what a digest covers."""
    if run.shared:
        run.be_alike()
    return flatten(
        {
            "host": run.host.state_dict(),
            "optimizer": run.optimizer.state(),
            "learning_rate": run.rates.state(),
            "kasmina": run.kasmina.state_dict(),
            "random": run.random.state(),
        }
        | (
            {
                "brought": {
                    name: encode(run.told.get(name) or each.state_dict(), name) for name, each in run.brought.items()
                }
            }
            if run.brought
            else {}
        )
    )


def place_of_script(run: Run) -> dict[str, Any]:
    """Where the random streams are and what a script brought: what its loop moves before a run's first step."""
    brought = {name: copy.deepcopy(each.state_dict()) for name, each in run.brought.items()}
    return {"random": run.random.state(), "own": own_streams(), "brought": brought}


def set_place_of_script(run: Run, place: dict[str, Any]) -> None:
    """Put the random streams where `place_of_script` found them; what a script brought tells its state of then once.

    A loader that is being read cannot be put back and forth.
    """
    run.random.load_state(place["random"])
    set_own_streams(place["own"])
    run.told = place["brought"]


class TargetStepReached(Exception):
    """The run is at the step at which its state was asked for; `state` is a copy of it."""

    def __init__(self, state: FlatState) -> None:
        super().__init__("the step that was asked for is reached")
        self.state = state


def stop_at_target_step(run: Run) -> None:
    """Raise TargetStepReached where the run's state is asked for at this step; otherwise do nothing."""
    if run.world.at_target_step():
        raise TargetStepReached(capture(run))


def with_progress(run: Run, flat: FlatState) -> FlatState:
    """`flat` with what the next packet needs of the epochs before; no digest covers that part."""
    progress = {
        "guard": run.guard.state(),
        "windows": run.windows.state(),
        "probe_losses": list(run.probe_losses),
        "norms": normalizer.to_state(run.norms),
        "epochs_since_structural_change": run.epochs_since_structural_change,
        "paused_until": run.paused_until,
        "risk_memory": run.risk_memory.hex(),
        "last_decision": "" if run.last_decision is None else run.last_decision.SerializeToString().hex(),
        "spent": run.flops.state(),
        "pins": [asdict(pin) for pin in run.pins],
        "chains": {
            seed: {name: value.hex() for name, value in asdict(chain).items()} for seed, chain in run.chains.items()
        },
    }
    if not run.own_streams:
        return FlatState(flat.tensors, {**flat.scalars, PROGRESS: progress})
    # Not digested: a script that does not draw from them does not seed them either.
    streams = flatten({"own_streams": own_streams()})
    return FlatState(
        flat.tensors | streams.tensors,
        {
            **flat.scalars,
            PROGRESS: progress | {"own_streams": streams.scalars, "steps_per_epoch": run.steps_per_epoch},
        },
    )


def spent_by(flat: FlatState) -> dict[str, float]:
    """The FLOPs that a run had spent when `with_progress` made `flat`; a rollback does not bring them back."""
    spent: dict[str, float] = flat.scalars[PROGRESS].get("spent", {})
    return spent


def publish_digest(run: Run, flat: FlatState, occasion: str) -> Digest:
    """Digest `flat`, store the digests of its tensors as an object, and publish the root.

    Raises Diverged where another one is on record.
    """
    found = digest(flat)
    run.world.compare(found, flat)
    reference = run.world.put(found.to_bytes())
    body = StateDigested(root=found.root, tensors_ref=reference, tensors=len(flat.tensors), occasion=occasion)
    run.recorder.publish(body)
    return found


def verify(flat: FlatState, root: bytes, step: int) -> None:
    """Raise CorruptState where a stored state is not the one that was digested."""
    if digest(digested(flat)).root != root:
        raise CorruptState(f"the state kept for step {step} does not match its digest")


def restore(run: Run, flat: FlatState) -> None:
    """Make the run's state that of `flat`, which `with_progress` made; the tensors of `flat` stay its own."""
    tree = unflatten(flat)
    run.kasmina.become(tree["kasmina"])
    run.host.load_state_dict(tree["host"])
    run.kasmina.load_state_dict(tree["kasmina"])
    run.optimizer.load_state(tree["optimizer"], run.kasmina.modules())
    run.optimizer.sync(run.kasmina.trainable(), run.kasmina.modules())
    run.rates.load_state(tree["learning_rate"])
    run.random.load_state(tree["random"])
    for name, each in run.brought.items():
        each.load_state_dict(decode(tree["brought"][name]))
    if run.own_streams:
        set_own_streams(tree[PROGRESS]["own_streams"]["own_streams"])
    run.regroup()
    run.structure_changed()
    _load_progress(run, tree[PROGRESS])


def _load_progress(run: Run, progress: dict[str, Any]) -> None:
    run.guard.load_state(progress["guard"])
    run.windows.load_state(progress["windows"])
    run.probe_losses = list(progress["probe_losses"])
    run.norms = normalizer.of_state(progress.get("norms"))
    run.epochs_since_structural_change = progress["epochs_since_structural_change"]
    run.paused_until = progress.get("paused_until", 0)
    run.risk_memory = bytes.fromhex(progress.get("risk_memory", ""))
    last = bytes.fromhex(progress.get("last_decision", ""))
    run.last_decision = LastDecision.FromString(last) if last else None
    if steps := progress.get("steps_per_epoch"):
        run.set_steps_per_epoch(steps)
    run.pins = [Pin.of(pin) for pin in progress.get("pins", [])]
    run.chains = {
        seed: Chain(**{name: bytes.fromhex(value) for name, value in chain.items()})
        for seed, chain in progress["chains"].items()
    }
