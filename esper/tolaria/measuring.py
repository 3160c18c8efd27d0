"""What a run measures at the end of an epoch, and on how many samples, so that it stays within its share of the FLOPs.

A run is judged against static nets at equal training FLOPs, so what probes cost is lost to training: on one task they
were a third of everything. The probe figures of a run are therefore of one fixed part of the probe set, chosen once,
the same in its control run, and evidence is of one batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from esper.kasmina.kasmina import Kasmina
from esper.tolaria.config import RunConfig
from esper.tolaria.data import Samples
from esper.tolaria.flops import Counter, host_flops_per_sample
from esper.tolaria.tasks.task import Task, evaluate

LEAST_PROBE: Final = 64
"""Fewer samples than this make a mean that says nothing; a smaller probe set is measured whole."""

LEAST_EVIDENCE: Final = 8
"""Evidence with candidates at the places of a tiny host costs several passes of it: on spirals 16 samples took 12 %."""

EVIDENCE_PART: Final = 1 / 3
"""Of what may be measured: evidence ranks sites, while the probe decides what stays, so the probe gets the most."""

UNLIMITED_EVIDENCE: Final = 256

PROBES_PER_EPOCH: Final = 1.25
"""One at every epoch's end, and another where a seed moved on: some ten of forty epochs in the runs of the tables."""

_COST_SAMPLES: Final = 2


@dataclass(frozen=True, slots=True)
class Costs:
    """FLOPs of one sample at the run's start: a training step's, a forward pass's, and what evidence takes."""

    training: float
    forward: float
    evidence: float


@dataclass(frozen=True, slots=True)
class Measuring:
    """How many samples the probe figures of an epoch are of, and how many the evidence is of."""

    probe: int
    evidence: int


def sizes(share: float | None, costs: Costs, *, trained: int, batch_size: int, probe_set: int) -> Measuring:
    """The largest probe that fits into `share` of an epoch's training FLOPs beside the evidence, a batch at most.

    `trained` are the samples of an epoch. Where not even the least probe and evidence fit, those are taken, and a run
    with so few samples measures for more than its share. None for `share` measures all, and evidence on 256.
    """
    if share is None:
        return Measuring(probe_set, min(UNLIMITED_EVIDENCE, probe_set))
    budget = share * trained * costs.training
    probe_cost = PROBES_PER_EPOCH * costs.forward
    least = min(LEAST_PROBE, probe_set)
    evidence = min(batch_size, probe_set)
    if costs.evidence:
        affordable = min(budget * EVIDENCE_PART, budget - least * probe_cost)
        evidence = min(evidence, max(int(affordable / costs.evidence), LEAST_EVIDENCE))
    fits = int((budget - evidence * costs.evidence) / probe_cost) if probe_cost else probe_set
    return Measuring(min(max(fits, least), probe_set), evidence)


def tries_candidates(config: RunConfig) -> bool:
    """Whether the evidence has what a fresh seed would learn first: runs from before there were axes have it not."""
    return "width" in config.axes


def costs_of(host: nn.Module, kasmina: Kasmina, task: Task, *, candidates: bool, attention: bool = False) -> Costs:
    """What the host costs as it stands; nothing of it changes."""
    few = task.train.head(_COST_SAMPLES)
    training = host_flops_per_sample(host, task.loss, few, attention=attention)
    with Counter(attention=attention) as forward:
        evaluate(host, task, few)
    with Counter(attention=attention) as evidence:
        kasmina.evidence(lambda: task.loss(host(few.inputs), few.targets), candidates=candidates)
    return Costs(training, forward.get_total_flops() / len(few), evidence.get_total_flops() / len(few))


def plan(config: RunConfig, host: nn.Module, kasmina: Kasmina, task: Task, *, trained: int) -> Measuring:
    """The run's sizes. A control run has the same as its grown run, though it gathers no evidence."""
    assert config.batch_size is not None
    share, probe_set = config.measuring_share, len(task.probe)
    candidates = tries_candidates(config)
    attention = config.count_attention
    costs = (
        Costs(1, 1, 1) if share is None else costs_of(host, kasmina, task, candidates=candidates, attention=attention)
    )
    return sizes(share, costs, trained=trained, batch_size=config.batch_size, probe_set=probe_set)


def chosen(samples: Samples, count: int, seed: int) -> Samples:
    """`count` of the samples, in their order; all of them, or the same ones for the same seed."""
    if count >= len(samples):
        return samples
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return samples.take(order[:count].sort().values.to(samples.device))
