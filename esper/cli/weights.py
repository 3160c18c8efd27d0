"""`esper state --load`: the network's weights at a place of a run as one safetensors file."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from esper.cli.events import stage
from esper.cli.output import complain
from esper.errors import InvalidInput
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.record import Mark, Recorded, SeedState
from esper.tolaria.config import RunConfig
from esper.tolaria.machine import differences
from esper.tolaria.new_run import find_device
from esper.tolaria.outside import Clock
from esper.tolaria.replay import state_at
from esper.tolaria.state import FlatState
from esper.tolaria.train import Trainable, trained_in
from esper.weatherlight.ranks import beside
from streams.objects import object_store


def write_weights(data_dir: Path, recorded: Recorded, mark: Mark, target: Path) -> None:
    """Write the weights of the host and of every seed's module at `mark`.

    From the nearest checkpoint that is kept, the rest is trained again from the record, with every digest compared.
    """
    objects = object_store(data_dir)
    task = trained_in(replace(recorded, facts=recorded.facts[: mark.sequence]), objects, beside)  # as it was then
    flat = trained_again(recorded, mark, task, objects)
    metadata = {
        "run_id": recorded.run_id,
        "step": str(mark.model.step),
        "epoch": str(mark.model.epoch),
        "timeline": str(mark.run_status.timeline),
        "seeds": json.dumps([_described(seed) for seed in mark.model.seeds.values()]),
    }
    write_whole(target, safetensors.torch.save(weights(flat), metadata=metadata))


def trained_again(recorded: Recorded, mark: Mark, task: Trainable, objects: ObjectStore) -> FlatState:
    """The state at `mark`: from the nearest checkpoint that is kept, the rest by training on from the record.

    Says where this machine differs from the run's. Raises InvalidInput for a device that is not here, and as
    `state_at` does.
    """
    config = RunConfig.from_json(recorded.root.config_json)
    find_device(config.device)
    torch.set_num_threads(config.threads)
    for difference in differences(recorded.facts, task.fingerprint()):
        complain(f"this is not where run {recorded.run_id} was trained: {difference}; its bits may differ")
    clock = Clock(time.monotonic, time.time_ns)
    with _shown(recorded.run_id, mark.model.step) as watch:
        return state_at(recorded, task, objects=objects, clock=clock, step=mark.model.step, watch=watch)


@contextlib.contextmanager
def _shown(run_id: str, step: int) -> Iterator[Callable[[Event], None]]:
    """A bar on a terminal while the run is trained again up to `step`; nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task(f"training {run_id} again", total=step)
        yield lambda fact: bar.update(shown, completed=fact.global_step)


def weights(flat: FlatState) -> dict[str, Any]:
    """`host.<name>` and `<seed>.<name>`, as the modules' own state dictionaries have them."""
    named: dict[str, Any] = {}
    for path, tensor in flat.tensors.items():
        if path.startswith("host/"):
            named["host." + path.removeprefix("host/")] = tensor
        elif path.startswith("kasmina/tensors/") and ".module." in path:
            named[path.removeprefix("kasmina/tensors/").replace(".module.", ".", 1)] = tensor
    return named


def _described(seed: SeedState) -> dict[str, Any]:
    return {
        "seed_id": seed.seed_id,
        "site": seed.site,
        "stage": stage(seed.stage),
        "blueprint_id": seed.blueprint_id,
        "alpha": seed.alpha,
    }


def check_writable(target: Path, option: str = "--load") -> None:
    """Raises InvalidInput where the file cannot be: before a long replay and not after it."""
    if target.is_dir():
        raise InvalidInput(f"{target} is a folder; name a file with {option}")
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise InvalidInput(f"{target} cannot be written: {target.parent} is no folder that takes it; name another file")


def write_whole(target: Path, content: bytes, option: str = "--load") -> None:
    """There whole or not at all."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InvalidInput(f"{target} cannot be written: {error.strerror}; name another file with {option}") from None
