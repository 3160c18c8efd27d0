"""`esper state --load`: the network's weights at a place of a run as one safetensors file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import safetensors.torch

from esper.cli.describe import stage
from esper.errors import InvalidInput
from esper.history import Mark, RunState, Saved
from esper.history.facts import TO_WORLD
from esper.history.state import marks, path_from
from esper.leyline.objects import ObjectStore
from esper.tolaria import checkpoint
from esper.tolaria.state_tree import FlatState

_CHANGES_NOTHING: Final = frozenset(
    {"checkpoint_saved", "epoch_completed", "learning_rate_changed", "optimizer_changed"}
)
"""Facts that say something of the network and leave its weights as they are."""
_STRUCTURAL: Final = (TO_WORLD.keys() - _CHANGES_NOTHING) | {"rolled_back"}


def write_weights(data_dir: Path, state: RunState, mark: Mark, target: Path) -> None:
    """Write the weights of the host and of every seed's module at `mark`; raises InvalidInput where none are stored."""
    saved = exact_checkpoint(state, mark)
    flat, _, _ = checkpoint.load(ObjectStore(data_dir / "objects"), saved.ref)
    metadata = {
        "run_id": state.run_id,
        "step": str(mark.world.step),
        "epoch": str(mark.world.epoch),
        "timeline": str(mark.standing.timeline),
        "seeds": json.dumps([_described(seed) for seed in mark.world.seeds.values()]),
    }
    _write(target, safetensors.torch.save(weights(flat), metadata=metadata))


def weights(flat: FlatState) -> dict[str, Any]:
    """`host.<name>` and `<seed>.<name>`, as the modules' own state dictionaries have them."""
    named: dict[str, Any] = {}
    for path, tensor in flat.tensors.items():
        if path.startswith("host/"):
            named["host." + path.removeprefix("host/")] = tensor
        elif path.startswith("kasmina/tensors/") and ".module." in path:
            named[path.removeprefix("kasmina/tensors/").replace(".module.", ".", 1)] = tensor
    return named


def exact_checkpoint(state: RunState, mark: Mark) -> Saved:
    """The kept checkpoint whose state is the one at `mark`; raises InvalidInput, naming the nearest, where none is."""
    saved = mark.world.checkpoint
    if saved is not None and saved.step == mark.world.step and saved.ref in state.standing.checkpoints:
        since = [each.body for each in path_from(mark) if each.sequence > saved.sequence]
        if not _STRUCTURAL.intersection(since):
            return saved
    steps = sorted({saved.step for saved in _stored(state)}, key=lambda step: (abs(step - mark.world.step), -step))
    if not steps:
        raise InvalidInput(f"run {state.run_id} keeps no checkpoint, so its weights at step {mark.world.step} are gone")
    if steps[0] == mark.world.step:
        raise InvalidInput(
            f"run {state.run_id}: its checkpoint of step {steps[0]} was made before a seed moved there, "
            "so the weights after the move are not stored; name an earlier or a later step"
        )
    raise InvalidInput(
        f"run {state.run_id} keeps no checkpoint of exactly step {mark.world.step}; the nearest is at step {steps[0]}: "
        f"`esper state {state.run_id} --at {steps[0]} --load FILE`"
    )


def _stored(state: RunState) -> Iterator[Saved]:
    """The kept checkpoints of the surviving timeline."""
    for mark in marks(state):
        saved = mark.world.checkpoint
        if mark.body == "checkpoint_saved" and saved is not None and saved.ref in state.standing.checkpoints:
            yield saved


def _described(seed: Any) -> dict[str, Any]:
    return {
        "seed_id": seed.seed_id,
        "site": seed.site,
        "stage": stage(seed.stage),
        "blueprint_id": seed.blueprint_id,
        "alpha": seed.alpha,
    }


def _write(target: Path, content: bytes) -> None:
    """There whole or not at all."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InvalidInput(f"{target} cannot be written: {error.strerror}; name another file with --load") from None
