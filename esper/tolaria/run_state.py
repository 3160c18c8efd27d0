"""The state of a run as a whole: captured, digested, and put back bit for bit."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import StateDigested
from esper.errors import CorruptState
from esper.tolaria.run import Chain, Run
from esper.tolaria.state_tree import Digest, FlatState, digest, flatten, unflatten

_PROGRESS: Final = "progress"


def capture(run: Run) -> FlatState:
    """A copy of everything that decides what the run computes next: what a digest covers."""
    return flatten(
        {
            "host": run.host.state_dict(),
            "optimizer": run.optimizer.state(),
            "learning_rate": run.rates.state(),
            "kasmina": run.kasmina.state_dict(),
            "random": run.random.state(),
        }
    )


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
        "epochs_since_structural_change": run.epochs_since_structural_change,
        "paused_until": run.paused_until,
        "spent": run.flops.state(),
        "chains": {
            seed: {name: value.hex() for name, value in asdict(chain).items()} for seed, chain in run.chains.items()
        },
    }
    return FlatState(flat.tensors, {**flat.scalars, _PROGRESS: progress})


def spent_by(flat: FlatState) -> dict[str, float]:
    """The FLOPs that a run had spent when `with_progress` made `flat`; a rollback does not bring them back."""
    spent: dict[str, float] = flat.scalars[_PROGRESS].get("spent", {})
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
    scalars = {name: value for name, value in flat.scalars.items() if name != _PROGRESS}
    if digest(FlatState(flat.tensors, scalars)).root != root:
        raise CorruptState(f"the state kept for step {step} does not match its digest")


def restore(run: Run, flat: FlatState) -> None:
    """Make the run's state that of `flat`, which `with_progress` made; the tensors of `flat` stay its own."""
    tree = unflatten(flat)
    run.host.load_state_dict(tree["host"])
    run.kasmina.load_state_dict(tree["kasmina"])
    run.optimizer.load_state(tree["optimizer"], run.kasmina.modules())
    run.optimizer.sync(run.kasmina.trainable(), run.kasmina.modules())
    run.rates.load_state(tree["learning_rate"])
    run.random.load_state(tree["random"])
    run.regroup()
    run.flops.structure_changed()
    _load_progress(run, tree[_PROGRESS])


def _load_progress(run: Run, progress: dict[str, Any]) -> None:
    run.guard.load_state(progress["guard"])
    run.windows.load_state(progress["windows"])
    run.probe_losses = list(progress["probe_losses"])
    run.epochs_since_structural_change = progress["epochs_since_structural_change"]
    run.paused_until = progress.get("paused_until", 0)
    run.chains = {
        seed: Chain(**{name: bytes.fromhex(value) for name, value in chain.items()})
        for seed, chain in progress["chains"].items()
    }
