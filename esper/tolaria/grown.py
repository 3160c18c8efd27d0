"""The network that a recorded state is of, as a plain module: its host, with what grew in it as submodules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import SiteDescription
from esper.errors import CorruptState, InvalidInput
from esper.karn import catalogue
from esper.kasmina import lifecycle
from esper.kasmina.kasmina import Kasmina
from esper.kasmina.sites import evaluating
from esper.tolaria.config import RunConfig
from esper.tolaria.data import own_random_stream
from esper.tolaria.new_run import clearance_of
from esper.tolaria.state import FlatState, unflatten
from esper.tolaria.static import with_structure
from esper.tolaria.tasks.task import Task

COMPARED: Final = 8
"""As many samples are forwarded to see that what was built computes what the run computed."""


def grown_network(task: Task, sites: Sequence[SiteDescription], config: RunConfig, flat: FlatState) -> nn.Module:
    """The network of a run's state on the CPU, in evaluation mode; its output is that of the run's own to the bit.

    `sites` and `config` are the run's. Torch's random stream is left alone. Raises CorruptState where the state does
    not fit the task's host, and InvalidInput for a host that does not reach a site by the name that it registered.
    """
    with own_random_stream(torch.device("cpu")):
        task = with_structure(task, config, torch.device("cpu"), seed=0)  # where a static run began
        host = task.make_host().cpu()
        few = task.to(torch.device("cpu")).train.take(torch.arange(min(COMPARED, len(task.train))))
        return network_of(host, sites, config, flat, lambda net: task.per_sample_loss(net(few.inputs), few.targets))


def network_of(
    host: nn.Module,
    sites: Sequence[SiteDescription],
    config: RunConfig,
    flat: FlatState,
    figures: Callable[[nn.Module], Tensor] | None = None,
) -> nn.Module:
    """The same with this host, which is changed; `figures` of what was built are compared with those of the run's."""
    tree = unflatten(flat)
    build = partial(catalogue.build, clearance=clearance_of(config))
    kasmina = Kasmina(host, sites, config.seeds, build, steps_per_epoch=1, seed=0, monotonic=lambda: 0.0)
    try:
        kasmina.become(tree["kasmina"])
        _check_fits(host, tree["host"])
        host.load_state_dict(tree["host"])
        kasmina.load_state_dict(tree["kasmina"])
    except RuntimeError as error:
        what = str(error).splitlines()[-1].strip()
        raise CorruptState(f"the state of the run does not fit {type(host).__name__}: {what}") from None
    told = None if figures is None else _evaluated(host, figures)
    network = kasmina.grown()
    if figures is not None and told is not None and not _same(told, _evaluated(network, figures)):
        behind = [site.site for site in sites if not site.HasField("width")]
        raise InvalidInput(
            f"{type(host).__name__} does not compute the same with its seeds as submodules: it must call its sites "
            f"({', '.join(behind)}) as attributes of the modules that they belong to"
        )
    return network.eval()


def _check_fits(host: nn.Module, wanted: Mapping[str, Tensor]) -> None:
    """Raise CorruptState for the first tensor that host and run do not both have, in one shape."""
    have = host.state_dict()
    of_both = (*have, *(name for name in wanted if name not in have))  # in the order of the model
    for name in of_both:
        there, here = (f"shape {tuple(each[name].shape)}" if name in each else "none" for each in (wanted, have))
        if there != here:
            raise CorruptState(
                f"the state of the run does not fit {type(host).__name__}: {name} has {there} in the run and {here} in "
                "the model; make it with the sizes that it had"
            )


@torch.no_grad()
def _evaluated(network: nn.Module, figures: Callable[[nn.Module], Tensor]) -> Tensor:
    with evaluating(network), own_random_stream(torch.device("cpu")):
        return figures(network)


def unproven(flat: FlatState) -> list[str]:
    """The seeds that are in the network of a state and not FOSSILIZED: `s1: BP009, BLENDING, alpha 0.5`."""
    slots = unflatten(flat)["kasmina"]["scalars"]["slots"]
    return [
        f"{seed_id}: {slot['seed']['blueprint_id']}, {lifecycle.name(slot['stage'])}, alpha {slot['alpha']:g}"
        for seed_id, slot in slots.items()
        if slot["seed"] is not None and slot["stage"] in lifecycle.MIXED - {lifecycle.FOSSILIZED}
    ]


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal in every element, what is no number included."""
    return bool(torch.all((one == other) | (one.isnan() & other.isnan())))
