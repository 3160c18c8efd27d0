"""Loss and accuracy of a network on a set of samples, leaving no trace in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from esper.kasmina.gates import Loss
from esper.kasmina.sites import evaluating
from esper.tolaria.data import Samples
from esper.tolaria.tasks.task import Task

CHUNK: Final = 512
"""Samples at a time: bounds the memory of an evaluation, whatever the set."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`loss` with each sample's own, and the mean accuracy from 0 to 1."""

    loss: Loss
    accuracy: float


@torch.no_grad()
def evaluate(network: nn.Module, task: Task, samples: Samples) -> Evaluation:
    """The network in evaluation mode on all `samples`, in their order."""
    losses, hits = [], []
    with evaluating(network):
        for inputs, targets in zip(
            *(torch.split(each, CHUNK) for each in (samples.inputs, samples.targets)), strict=True
        ):
            outputs = network(inputs)
            losses.append(task.per_sample_loss(outputs, targets))
            hits.append(task.per_sample_accuracy(outputs, targets))
    return Evaluation(Loss.of(torch.cat(losses)), float(torch.cat(hits).double().mean()))
