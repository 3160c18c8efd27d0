"""The static arm: a net that has a grown structure from its first step, and how long it may train for a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

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
from esper.kasmina.sites import describe_sites
from esper.tolaria.config import RunConfig
from esper.tolaria.measuring import Costs
from esper.tolaria.structure import Piece
from esper.tolaria.tasks.task import Task


def with_structure(task: Task, config: RunConfig, device: torch.device, seed: int) -> Task:
    """The task with a host, on `device`, that has the configuration's structure built in; itself where it has none.

    What a person would have trained instead of growing it. Seeds begin as the run's own do, drawn from `seed` and with
    last projections of zero; a layer that the run made wider begins as PyTorch begins one of that width, from torch's
    random stream. Nothing more grows. `make_host` raises InvalidInput for a structure that the host cannot have.
    """
    if not config.structure:
        return task
    return replace(task, make_host=partial(_static_host, task, config, device, seed), sites=())


def _static_host(task: Task, config: RunConfig, device: torch.device, seed: int) -> nn.Module:
    clearance, structure = Clearance(config.dossier.approvals, drill=config.drill), config.structure
    host = task.make_host().to(device)
    pool = sorted({piece.blueprint_id for piece in structure})
    options = partial(catalogue.options, pool=pool, clearance=clearance)
    sites = [site for site in task.sites if site.axis in config.axes]
    places = describe_sites(host, sites, task.train.head(task.batch_size).to(device).inputs, options)
    build = partial(catalogue.build, clearance=clearance)
    at_once = SeedSettings(lifecycle="direct")
    kasmina = Kasmina(
        host, places, at_once, build, steps_per_epoch=1, seed=seed, monotonic=lambda: 0.0, options=options
    )
    build_in(kasmina, host, structure)
    return kasmina.grown()


def build_in(kasmina: Kasmina, host: nn.Module, structure: Sequence[Piece]) -> None:
    """Grow a structure in a host at once, by seeds that are inserted as they germinate (the lifecycle `direct`).

    Raises InvalidInput for one that the host cannot have.
    """
    wider: list[Any] = []
    for piece in structure:
        place = kasmina.sites().get(piece.seed_id)
        if place is not None and place.HasField("width"):
            wider += [host.get_submodule(name) for name in (place.site, place.width.consumer)]
        try:
            kasmina.apply(germinate(piece))
        except CommandRefused as refusal:
            raise InvalidInput(f"the structure has {piece.blueprint_id} at {piece.seed_id}: {refusal.detail}") from None
    for layer in dict.fromkeys(wider):
        layer.reset_parameters()


def germinate(piece: Piece) -> AdaptationCommand:
    """The command that grows a piece of a structure where it stood; unsigned, for whoever carries it out at once."""
    operation = CommandSeedOperation(
        operation=SEED_OPERATION_GERMINATE, blueprint_id=piece.blueprint_id, parameters=piece.parameters
    )
    return AdaptationCommand(
        command_type=COMMAND_TYPE_SEED,
        target_seed_id=piece.seed_id,
        seed_operation=operation,
        annotations=piece.annotations,
    )


def epochs_within(budget: float, costs: Costs, *, trained: int) -> int:
    """The whole number of epochs, at least one, whose steps' FLOPs come nearest to `budget`.

    `trained` samples are learnt from in an epoch. What is measured after it does not count: whoever trains a static net
    needs no probes, and the growth table has the same rule.
    """
    return max(1, round(budget / max(costs.training * trained, 1)))
