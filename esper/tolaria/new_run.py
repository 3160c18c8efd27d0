"""A run's parts, made once: host, seeds, optimiser, rates, guards and meters, on the device that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from contracts.leyline.v1.event_pb2 import SiteDescription
from esper.errors import InvalidInput
from esper.karn import catalogue
from esper.karn.approval import Clearance
from esper.karn.catalogue import offer
from esper.karn.table import find
from esper.kasmina.absorb import Options
from esper.kasmina.kasmina import Kasmina
from esper.kasmina.kernels import NoKernels
from esper.kasmina.sites import describe_sites
from esper.leyline import limits
from esper.tolaria.budget import budget_of, numbers_fixed
from esper.tolaria.config import RunConfig
from esper.tolaria.data import RandomStreams
from esper.tolaria.flops import FlopMeter
from esper.tolaria.gradients import Learners
from esper.tolaria.guard import ALARM, KERNELS, MEMORY, SECURITY, SWAPS, ConservativeMode, Guard, TrainerBreaker
from esper.tolaria.kernels import LibraryKernels, WorldKernels
from esper.tolaria.learning_rate import LearningRates, warmup_steps
from esper.tolaria.measuring import chosen, costs_of, plan
from esper.tolaria.optimizer import GroupedOptimizer
from esper.tolaria.own_optimizer import FollowedRates
from esper.tolaria.own_parts import own_optimizer, own_scheduler, with_own
from esper.tolaria.run import Rates, Run, Stateful, parameters
from esper.tolaria.state import (
    SnapshotCache,
)
from esper.tolaria.static import epochs_within, with_structure
from esper.tolaria.tasks.task import Task
from esper.tolaria.windows import Windows
from esper.tolaria.work import TaskWork, Work
from esper.tolaria.world import Recorder, World


def make_run(config: RunConfig, task: Task, world: World, *, run_id: str) -> Run:
    """The run at step 0, with nothing published yet.

    `config` is made complete with the task's defaults and the ids of its pool. Draws from torch's global random stream,
    which is left where training begins. Raises InvalidInput for a device or site that does not exist, for a pool as
    `find_pool` does or where none of it serves a site, and for memory shares above 1.
    """
    limits.check_memory_budgets(limits.MEMORY)
    pool, clearance = find_pool(config), clearance_of(config)
    offered = [site for site in task.sites if site.axis in config.axes]
    dossier = config.dossier.of(pool, {site.shape_kind for site in offered})
    config = replace(config, pool=pool, dossier=dossier)
    budget = config.flops_budget if config.epochs is None else None
    config = config.resolved(epochs=task.epochs, batch_size=task.batch_size, learning_rate=task.learning_rate)
    device = find_device(config.device)
    task = task.to(device)
    config = with_own(config, task)
    assert config.batch_size is not None
    steps_per_epoch = task.steps(config.batch_size)
    random = RandomStreams(config.seed, device)
    torch.manual_seed(random.seeds["init"])
    task = with_structure(task, config, device, random.seeds["seeds"])
    host = task.make_host().to(device)
    options = partial(offer, pool=pool, dossier=dossier, clearance=clearance, sheet_risk=config.sheet_risk)
    sites = describe_sites(
        host, [] if config.structure else offered, task.train.head(config.batch_size).inputs, options
    )
    if sites and not any(site.options for site in sites):
        raise InvalidInput(f"nothing of pool {', '.join(pool)} serves a site of task {task.name}; name another")
    clock = world.outside.clock
    kasmina = make_kasmina(
        config, host, sites, world, options, steps_per_epoch=steps_per_epoch, seed=random.seeds["seeds"]
    )
    optimizer = None if task.make_optimizer is None else own_optimizer(task, host, kasmina, clock.monotonic)
    loader = None if task.make_loader is None else task.make_loader()
    scheduler = own_scheduler(task, optimizer)
    random.begin_training(everywhere=loader is not None)
    trained = config.batch_size * steps_per_epoch
    measuring = plan(config, host, kasmina, task, trained=trained)
    if budget is not None:
        costs = costs_of(host, kasmina, task, candidates=False, attention=config.count_attention)
        config = replace(config, epochs=epochs_within(budget, costs, trained=trained))
    measured = chosen(task.probe, measuring.probe, random.seeds["probe"])
    assert config.epochs is not None and config.batch_size is not None and config.learning_rate is not None  # noqa: PT018
    known = config.growth_data_share and config.policy != "none" and loader is None
    run = assembled(
        config,
        TaskWork(
            task,
            random,
            config.batch_size,
            measured,
            measuring.evidence,
            loader,
            scheduler,
            count_attention=config.count_attention,
        ),
        world,
        host,
        kasmina,
        run_id=run_id,
        random=random,
        device=device,
        steps_per_epoch=steps_per_epoch,
        optimizer=optimizer
        or GroupedOptimizer(
            config.optimizer,
            list(host.parameters()),
            rate=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            monotonic=clock.monotonic,
        ),
        rates=FollowedRates(
            optimizer,
            new_parameter_rate=config.new_parameter_rate,
            warmup_steps=lambda: round(config.new_parameter_warmup_epochs * run.steps_per_epoch),
        )
        if optimizer is not None
        else LearningRates(
            config.rate_policy,
            base_rate=config.learning_rate,
            total_steps=config.epochs * steps_per_epoch,
            warmup_steps=warmup_steps(
                config.rate_policy, config.rate_warmup_epochs, steps_per_epoch, structured=bool(config.structure)
            ),
            decay_share=config.rate_decay_share,
            new_parameter_rate=config.new_parameter_rate,
            new_parameter_warmup_steps=round(config.new_parameter_warmup_epochs * steps_per_epoch),
        ),
        targets_fix=numbers_fixed(host, task, device) if known else None,
    )
    run.brought = stateful(scheduler=scheduler, loader=loader)
    run.own_streams = loader is not None
    return run


def stateful(**brought: Any) -> dict[str, Stateful]:
    """What has a state of its own beside model and optimiser, by name."""
    return {name: each for name, each in brought.items() if each is not None and hasattr(each, "load_state_dict")}


def make_kasmina(
    config: RunConfig,
    host: nn.Module,
    sites: Sequence[SiteDescription],
    world: World,
    options: Options,
    *,
    steps_per_epoch: int,
    seed: int,
) -> Kasmina:
    """The seeds of a run's host, whose kernels and verdicts are the world's."""
    found = world.outside.library if computes_in_32_bits(host) and not config.structure else None
    library = NoKernels() if found is None else LibraryKernels(found)
    return Kasmina(
        host,
        sites,
        config.seeds,
        partial(catalogue.build, clearance=clearance_of(config)),
        steps_per_epoch=steps_per_epoch,
        seed=seed,
        monotonic=world.outside.clock.monotonic,
        kernels=WorldKernels(world, library),
        verdicts=world,
        options=options,
    )


def assembled(
    config: RunConfig,
    work: Work,
    world: World,
    host: nn.Module,
    kasmina: Kasmina,
    *,
    run_id: str,
    random: RandomStreams,
    device: torch.device,
    steps_per_epoch: int,
    optimizer: GroupedOptimizer,
    rates: Rates,
    targets_fix: int | None = None,
) -> Run:
    """A run of these parts and of those that follow from its configuration, which is complete.

    `targets_fix` is how many numbers the training targets fix, None where that is not known.
    """
    assert config.epochs is not None and config.batch_size is not None  # noqa: PT018
    clock = world.outside.clock
    kernel_breaker = TrainerBreaker(KERNELS, world, clock.monotonic, failures=10, window_s=30.0, successes=3)
    kasmina.ask_library_while(lambda: kernel_breaker.allows)
    return Run(
        config=config,
        work=work,
        world=world,
        outside=world.outside,
        clock=clock,
        objects=world.outside.objects,
        recorder=Recorder(world, run_id),
        device=device,
        batch_size=config.batch_size,
        steps_per_epoch=steps_per_epoch,
        epochs=config.epochs,
        host=host,
        kasmina=kasmina,
        optimizer=optimizer,
        rates=rates,
        rate_breaker=TrainerBreaker("learning_rate", world, clock.monotonic),
        growth_breaker=TrainerBreaker("growth", world, clock.monotonic),
        alarm_breaker=TrainerBreaker(ALARM, world, clock.monotonic, failures=1),
        security_breaker=TrainerBreaker(SECURITY, world, clock.monotonic, window_s=60.0),
        kernel_breaker=kernel_breaker,
        memory_breaker=TrainerBreaker(MEMORY, world, clock.monotonic, failures=5, window_s=60.0, successes=3),
        swap_breaker=TrainerBreaker(SWAPS, world, clock.monotonic, window_s=120.0),
        random=random,
        guard=Guard(config.divergence_factor, gradient_factor=config.gradient_factor, clip_norm=config.clip_norm),
        flops=FlopMeter(attention=config.count_attention),
        windows=Windows(config.window_epochs),
        mode=ConservativeMode(),
        decider_breaker=TrainerBreaker("tamiyo", world, clock.monotonic),
        snapshots=SnapshotCache(config.fast_snapshots, config.fast_snapshot_bytes),
        params_host=parameters(host),
        params_budget=budget_of(config, host, targets_fix),
        learners=Learners(list(host.parameters()), []),
    )


def clearance_of(config: RunConfig) -> Clearance:
    """The run's clearance: which blueprints it may use beyond the safe ones."""
    return Clearance(config.dossier.approvals, drill=config.drill)


def find_pool(config: RunConfig) -> tuple[str, ...]:
    """The ids of the run's pool; raises InvalidInput for one that does not exist or that it is not cleared for."""
    pool, clearance = catalogue.pool(config.pool), clearance_of(config)
    for blueprint_id in pool:
        clearance.check(find(blueprint_id))
    return pool


def computes_in_32_bits(host: nn.Module) -> bool:
    """Whether the host computes in 32-bit floats, which is what kernels are made for."""
    return all(parameter.dtype == torch.float32 for parameter in host.parameters() if parameter.is_floating_point())


def find_device(name: str) -> torch.device:
    """The device called `name`; raises InvalidInput where it does not exist on this machine."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InvalidInput(f"device {name!r} is unknown; use cpu, cuda or cuda:<number>") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(f"device {name!r} is not available: this PyTorch sees no CUDA device; use cpu")
    if device.type not in ("cpu", "cuda"):
        raise InvalidInput(f"device {name!r} is not supported; use cpu, cuda or cuda:<number>")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise InvalidInput(f"device {name!r} is not there: this machine has {count} of them, from cuda:0 on")
    return device


# ---------------------------------------------------------------------------------------------- the state of a run
