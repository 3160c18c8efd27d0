"""The static arm: a net that has a grown structure from its first step, and how long it may train for a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from contracts.leyline.v1.leyline_pb2 import (
    COMMAND_TYPE_SEED,
    SEED_OPERATION_GERMINATE,
    AdaptationCommand,
    CommandSeedOperation,
)
from esper.errors import InvalidInput
from esper.karn import catalogue
from esper.karn.approval import Clearance
from esper.kasmina.commands import CommandRefused
from esper.kasmina.kasmina import Kasmina
from esper.kasmina.settings import SeedSettings
from esper.kasmina.sites import Site, describe_sites
from esper.tolaria.flops import forward_flops_per_sample, host_flops_per_sample
from esper.tolaria.structure import Piece
from esper.tolaria.tasks.task import Task


def static_host(
    make_host: Callable[[], nn.Module],
    sites: Sequence[Site],
    structure: Sequence[Piece],
    inputs: Tensor,
    *,
    clearance: Clearance,
    seed: int,
) -> nn.Module:
    """The host with `structure` built in, before anything has learnt: what a person would have trained instead.

    Seeds begin as the run's own do, with last projections of zero; a layer that the run made wider begins as PyTorch
    begins one of that width, from torch's random stream. `inputs` is a batch, `seed` that of the run's seeds. Raises
    InvalidInput for a structure that this host cannot have.
    """
    host = make_host()
    pool = sorted({piece.blueprint_id for piece in structure})
    options = partial(catalogue.options, pool=pool, clearance=clearance)
    places = describe_sites(host, sites, inputs, options)
    build = partial(catalogue.build, clearance=clearance)
    at_once = SeedSettings(lifecycle="direct")
    kasmina = Kasmina(host, places, at_once, build, steps_per_epoch=1, seed=seed, monotonic=lambda: 0.0)
    wider: list[Any] = []
    for piece in structure:
        place = kasmina.sites().get(piece.seed_id)
        if place is not None and place.HasField("width"):
            wider += [host.get_submodule(name) for name in (place.site, place.width.consumer)]
        try:
            kasmina.apply(_germinate(piece))
        except CommandRefused as refusal:
            raise InvalidInput(f"the structure has {piece.blueprint_id} at {piece.seed_id}: {refusal.detail}") from None
    for layer in dict.fromkeys(wider):
        layer.reset_parameters()
    return kasmina.grown()


def _germinate(piece: Piece) -> AdaptationCommand:
    operation = CommandSeedOperation(
        operation=SEED_OPERATION_GERMINATE, blueprint_id=piece.blueprint_id, parameters=piece.parameters
    )
    return AdaptationCommand(
        command_type=COMMAND_TYPE_SEED,
        target_seed_id=piece.seed_id,
        seed_operation=operation,
        annotations=piece.annotations,
    )


def epochs_within(budget: float, host: nn.Module, task: Task, batch_size: int) -> int:
    """The whole number of epochs, at least one, whose FLOPs come nearest to `budget`: steps, and a probe after each.

    What a run reports as its FLOPs is counted in the same way. The host is not changed.
    """
    batch = task.train.inputs[:batch_size], task.train.targets[:batch_size]
    step = host_flops_per_sample(host, task.loss, *batch) * batch_size
    probe = forward_flops_per_sample(host, batch[0]) * len(task.probe)
    return max(1, round(budget / max(step * task.steps(batch_size) + probe, 1)))
