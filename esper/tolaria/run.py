"""One run in this process: its parts, and what they come to together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from contracts.leyline.v1.event_pb2 import LastDecision, SiteDescription
from contracts.leyline.v1.leyline_pb2 import SEED_LIFECYCLE_STAGE_TRAINING, AdaptationCommand
from esper.kasmina.kasmina import Kasmina
from esper.leyline.objects import ObjectStore
from esper.tamiyo import normalizer
from esper.tamiyo.normalizer import Normalised
from esper.tolaria.config import RunConfig
from esper.tolaria.data import RandomStreams
from esper.tolaria.flops import FlopMeter
from esper.tolaria.gradients import Learners, stage_weight
from esper.tolaria.guard import ConservativeMode, Guard, TrainerBreaker
from esper.tolaria.learning_rate import LearningRates
from esper.tolaria.optimizer import GroupedOptimizer
from esper.tolaria.outside import Clock, Outside
from esper.tolaria.own_optimizer import FollowedRates
from esper.tolaria.shared_world import alike
from esper.tolaria.state import (
    Checkpoint,
    Pin,
    SnapshotCache,
)
from esper.tolaria.windows import Windows
from esper.tolaria.work import Work
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
    alarm_breaker: TrainerBreaker
    """An emergency that somebody else has signalled opens it, and nothing grows until it has been tried again."""
    security_breaker: TrainerBreaker
    """While it is open, no command is taken but those of decisions that were waited for."""
    kernel_breaker: TrainerBreaker
    """While it is open, the library is asked for no kernel."""
    memory_breaker: TrainerBreaker
    swap_breaker: TrainerBreaker
    """While it is open, no compiled kernel is tried."""
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
    memory_told: set[str] = field(default_factory=set)
    """Shares of memory that are nearly full, which was told."""
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
    def breakers(self) -> dict[str, TrainerBreaker]:
        """The trainer's own breakers by their names; Kasmina has one more for each seed's isolation."""
        every = (
            self.decider_breaker,
            self.rate_breaker,
            self.growth_breaker,
            self.alarm_breaker,
            self.security_breaker,
            self.kernel_breaker,
            self.memory_breaker,
            self.swap_breaker,
        )
        return {breaker.name: breaker for breaker in every}

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
