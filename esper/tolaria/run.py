"""One run in this process: its parts, made once, and its state as a whole, captured, digested and restored."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from contracts.leyline.v1.event_pb2 import LastDecision, SiteDescription, StateDigested
from contracts.leyline.v1.leyline_pb2 import SEED_LIFECYCLE_STAGE_TRAINING, AdaptationCommand
from esper.errors import CorruptState, InvalidInput
from esper.karn import catalogue
from esper.karn.approval import Clearance
from esper.karn.catalogue import offer
from esper.karn.table import find
from esper.kasmina.absorb import Options
from esper.kasmina.kasmina import Kasmina
from esper.kasmina.kernels import NoKernels
from esper.kasmina.sites import describe_sites
from esper.leyline import limits
from esper.leyline.objects import ObjectStore
from esper.tamiyo import normalizer
from esper.tamiyo.normalizer import Normalised
from esper.tolaria.budget import budget_of, numbers_fixed
from esper.tolaria.config import RunConfig
from esper.tolaria.data import RandomStreams
from esper.tolaria.encoded import decode, encode, own_streams, set_own_streams
from esper.tolaria.flops import FlopMeter
from esper.tolaria.gradients import Learners, stage_weight
from esper.tolaria.guard import ConservativeMode, Guard, TrainerBreaker
from esper.tolaria.kernels import LibraryKernels, WorldKernels
from esper.tolaria.learning_rate import LearningRates, warmup_steps
from esper.tolaria.measuring import chosen, costs_of, plan
from esper.tolaria.optimizer import GroupedOptimizer
from esper.tolaria.outside import Clock, Outside
from esper.tolaria.own_optimizer import FollowedRates
from esper.tolaria.own_parts import own_optimizer, own_scheduler, with_own
from esper.tolaria.shared_world import alike
from esper.tolaria.state import (
    PROGRESS,
    Checkpoint,
    Digest,
    FlatState,
    Pin,
    SnapshotCache,
    digest,
    digested,
    flatten,
    unflatten,
)
from esper.tolaria.static import epochs_within, with_structure
from esper.tolaria.tasks.task import Task
from esper.tolaria.windows import Windows
from esper.tolaria.work import TaskWork, Work
from esper.tolaria.world import Recorder, World

Rates = LearningRates | FollowedRates


class Stateful(Protocol):
    """A scheduler, a scaler or a loader whose state is part of its run's."""

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on from there."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The causes of a seed's later facts: the applied command that it grew from, and the packet behind that."""

    applied_id: bytes
    packet_id: bytes


@dataclass(slots=True)
class Run:
    """The parts of a run. A rollback restores what `capture` and `with_progress` name, and nothing else."""

    config: RunConfig
    work: Work
    world: World
    outside: Outside
    clock: Clock
    objects: ObjectStore
    recorder: Recorder
    device: torch.device
    batch_size: int
    steps_per_epoch: int
    epochs: int
    host: nn.Module
    kasmina: Kasmina
    optimizer: GroupedOptimizer
    rates: Rates
    rate_breaker: TrainerBreaker
    growth_breaker: TrainerBreaker
    """A policy or a person opens it, and nothing grows until one of them closes it; nothing else moves it."""
    random: RandomStreams
    guard: Guard
    flops: FlopMeter
    windows: Windows
    mode: ConservativeMode
    decider_breaker: TrainerBreaker
    snapshots: SnapshotCache
    params_host: int
    """Parameters of the host as the run began with it, which a budget is a multiple of; `params` counts all now."""
    params_budget: int
    """Parameters that all seeds together may have."""
    learners: Learners
    checkpoints: list[Checkpoint] = field(default_factory=list)
    pins: list[Pin] = field(default_factory=list)
    """The states from before seeds that have yet to prove themselves, the oldest first."""
    mid_epoch: bool = False
    """Whether an epoch's order of samples is drawn and its last step not taken."""
    chains: dict[str, Chain] = field(default_factory=dict)
    probe_losses: list[float] = field(default_factory=list)
    norms: Normalised = field(default_factory=normalizer.fresh)
    """Running mean and variance of an epoch's figures, which a policy sees them by."""
    epochs_since_structural_change: int = 0
    hook_ms: list[float] = field(default_factory=list)
    hook_contended_ms: float = 0.0
    """Of the last of them, while something on the machine waited for a processor."""
    hook_parts_ms: dict[str, float] = field(default_factory=dict)
    """The parts of the last epoch hook's time (R-TOL-1); they sum to the last of `hook_ms`."""
    failures_in_a_row: int = 0
    decision_timeouts: int = 0
    gradient_conflicts: int = 0
    paused_until: int = 0
    """The epoch whose end lifts a pause that was commanded."""
    paused: bool = False
    """Whether a person has told the trainer to stand still. No part of the state: none is kept while it stands still,
    but for one from before a germination, and going back there goes on."""
    risk_memory: bytes = b""
    """What the risk engine remembers, as the last decision left it; a rollback does not take it back."""
    last_decision: LastDecision | None = None
    """The decision whose report is due with the next packet; a rollback does not take it back."""
    pauses: dict[str, int] = field(default_factory=dict)
    """How often each of its masters has paused it within this epoch."""
    swaps_tried: set[tuple[str, str]] = field(default_factory=set)
    """Compiled kernels, by seed id and reference, that could not take the place of the eager one."""
    rollback_asked: AdaptationCommand | None = None
    """A rollback command that was accepted; the training loop carries it out before the next step."""
    scaler: torch.amp.GradScaler | None = None
    """What scales a script's loss in half precision."""
    accumulate: int = 1
    """Batches whose gradients are one step's."""
    brought: dict[str, Stateful] = field(default_factory=dict)
    """What a script brought that has a state of its own: scheduler, scaler, loader."""
    shared: bool = False
    """Whether other processes train replicas of the host, by DDP."""
    told: dict[str, Any] = field(default_factory=dict)
    """The states of what was brought as of before the first step, while the run begins."""
    own_streams: bool = False
    """Whether Python's and numpy's random streams are the run's too, as a script may draw from them."""
    guarded: bool = True
    """Whether steps are judged before they are taken; without growth a script's are not, nor looked at."""
    compiled: bool = False
    """Whether the script's host is compiled: extra passes are eager, and another structure compiles it anew."""

    def regroup(self) -> None:
        """Sort the parameters that learn now by the loss that they learn from; to be called when the seeds changed."""
        progress = self.recorder.epoch / self.epochs
        stages = {seed.seed_id: seed.stage for seed in self.kasmina.observations()}
        joint, alone = list(self.host.parameters()), []
        for seed_id, learning in self.kasmina.trainable().items():
            if stages[seed_id] == SEED_LIFECYCLE_STAGE_TRAINING:
                alone.append((learning, stage_weight(stages[seed_id], progress)))
            else:
                joint += learning
        self.learners = Learners(joint, alone)

    def be_alike(self) -> None:
        """Give the replicas of other processes the buffers of rank 0's."""
        alike([self.host, *self.kasmina.modules().values()])

    def structure_changed(self) -> None:
        """The network is another one: what passes cost is measured again, and a compiled host is compiled again."""
        self.flops.structure_changed()
        if self.compiled:
            torch.compiler.reset()

    def set_steps_per_epoch(self, steps: int) -> None:
        """An epoch has so many optimiser steps, as far as is known: ramps and warm-ups are measured by it."""
        self.steps_per_epoch = steps
        self.kasmina.set_steps_per_epoch(steps)

    @property
    def sites(self) -> list[SiteDescription]:
        """The places where the host can grow, as they are now, those where it has grown wider included."""
        return list(self.kasmina.sites().values())

    @property
    def params(self) -> int:
        """Parameters of the host, with what it absorbed, and of every attached seed."""
        return parameters(self.host) + sum(parameters(module) for module in self.kasmina.modules().values())


def parameters(module: nn.Module) -> int:
    """The number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


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
