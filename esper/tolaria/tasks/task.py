"""A task: a host, places where it can grow, three sets of samples, a loss; and the evaluation of a network on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.errors import InvalidInput
from esper.kasmina.gates import Loss
from esper.kasmina.sites import Site, evaluating
from esper.tolaria.data import Samples, split
from esper.tolaria.own_code import Place, caller

CHUNK: Final = 512
"""Samples that are evaluated at a time: bounds the memory, whatever the set."""

PerSample = Callable[[Tensor, Tensor], Tensor]
"""Outputs of the host and targets, both with N samples, to one figure per sample, shape (N,)."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats of each sample, shape (N,), of logits (N, C) or (N, T, C); there the mean over T."""
    losses = functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    return losses.view(len(targets), -1).mean(dim=1)


def share_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Share of a sample's targets that have the largest logit, shape (N,), float."""
    return (logits.argmax(dim=-1) == targets).float().view(len(targets), -1).mean(dim=1)


def perceptron_sites(layers: int) -> tuple[Site, ...]:
    """The sites of an MLP: after each hidden layer a module can grow, and each can become wider itself."""
    names = [*(f"layers.{layer}.0" for layer in range(layers)), "head"]
    return (
        *(Site(f"layers.{layer}", "vector") for layer in range(layers)),
        *(Site(producer, "vector", consumer=consumer) for producer, consumer in pairwise(names)),
    )


def transformer_sites(blocks: int) -> tuple[Site, ...]:
    """The sites of a TransformerLite: before and after each block, and the GELU layer of each can become wider."""
    return (
        Site("embedding", "token"),
        *(Site(f"blocks.{block}", "token") for block in range(blocks)),
        *(Site(f"blocks.{block}.up", "token", consumer=f"blocks.{block}.down") for block in range(blocks)),
    )


@dataclass(frozen=True, slots=True)
class Task:
    """A training job.

    `make_host` draws its initial weights from torch's global random stream. `sites` name submodules of the host.
    `train` is learnt from, `probe` is what gates, heuristics and policies may look at, and `test` is for the final
    report alone; the three share no sample. An epoch is `steps_per_epoch` batches of `batch_size`, or all of `train`
    where it is None (a last incomplete batch is left out). `epochs`, `batch_size` and `learning_rate` are defaults of
    the run's configuration. `sized_host(params)` makes a static host of about so many parameters, for comparisons.

    Raises InvalidInput where these do not fit each other.
    """

    name: str
    make_host: Callable[[], nn.Module]
    sites: tuple[Site, ...]
    train: Samples
    probe: Samples
    test: Samples
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 3e-3
    steps_per_epoch: int | None = None
    per_sample_loss: PerSample = cross_entropy
    per_sample_accuracy: PerSample = share_correct
    source: str = "python"
    source_code: bytes = b""
    sized_host: Callable[[int], nn.Module] | None = None
    place: Place | None = field(default=None, compare=False, repr=False)
    """The line of a person's file that made it, for messages; None where no code but Esper's did."""

    def __post_init__(self) -> None:
        if self.place is None:
            object.__setattr__(self, "place", caller())
        self._check_kinds()
        if self.epochs < 1 or not self.learning_rate > 0:
            raise InvalidInput(
                f"task {self.name}: epochs {self.epochs} and learning rate {self.learning_rate} must be positive"
            )
        self.steps(self.batch_size)

    def _check_kinds(self) -> None:
        """Raise InvalidInput for a field that is another kind of thing than it must be."""
        if isinstance(self.make_host, nn.Module):
            kind = type(self.make_host).__name__
            raise InvalidInput(
                f"{self._at('make_host')}make_host is a {kind} already, and each run makes its own from its seed; "
                f"give what makes one, such as make_host=lambda: {kind}(...)"
            )
        for site in self.sites:
            if not isinstance(site, Site):
                raise InvalidInput(
                    f"{self._at('sites')}site {site!r} is a {type(site).__name__}; name it with what it gives, such as "
                    f"Site({site!r}, 'vector'), or 'image' or 'token'"
                )

    def _at(self, argument: str) -> str:
        """The line of an argument as a message begins with it."""
        return f"{self.place.argument(argument)}: " if self.place is not None else ""

    def steps(self, batch_size: int) -> int:
        """Optimiser steps in an epoch of this batch size; raises InvalidInput where there are too few samples."""
        possible = len(self.train) // batch_size if batch_size > 0 else 0
        steps = possible if self.steps_per_epoch is None else self.steps_per_epoch
        if not 0 < steps <= possible:
            raise InvalidInput(
                f"task {self.name}: {len(self.train)} training samples do not make {max(steps, 1)} batches of "
                f"{batch_size}; lower the batch size"
            )
        return steps

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The scalar that training lowers: the mean of the samples' losses."""
        return self.per_sample_loss(outputs, targets).mean()

    def to(self, device: torch.device) -> Task:
        """The same task with its samples on `device`."""
        return replace(self, train=self.train.to(device), probe=self.probe.to(device), test=self.test.to(device))

    @classmethod
    def from_samples(
        cls,
        name: str,
        *,
        make_host: Callable[[], nn.Module],
        sites: tuple[Site, ...],
        inputs: Tensor,
        targets: Tensor,
        epochs: int = 20,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        per_sample_loss: PerSample = cross_entropy,
        per_sample_accuracy: PerSample = share_correct,
    ) -> Task:
        """A task of one set of samples, split at random into 60 % training, 15 % probe and 25 % test."""
        samples = Samples(inputs, targets)
        probe, test = len(samples) * 15 // 100, len(samples) * 25 // 100
        parts = split(samples, (len(samples) - probe - test, probe, test), seed=0)
        return cls(
            name=name,
            make_host=make_host,
            sites=sites,
            train=parts[0],
            probe=parts[1],
            test=parts[2],
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            per_sample_loss=per_sample_loss,
            per_sample_accuracy=per_sample_accuracy,
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of a network on a set: `loss` with each sample's own, and the mean accuracy from 0 to 1."""

    loss: Loss
    accuracy: float


@torch.no_grad()
def evaluate(network: nn.Module, task: Task, samples: Samples) -> Evaluation:
    """Loss and accuracy of the network, in evaluation mode, on all `samples` in their order; it is left unchanged."""
    losses, hits = [], []
    with evaluating(network):
        for inputs, targets in zip(
            *(torch.split(each, CHUNK) for each in (samples.inputs, samples.targets)), strict=True
        ):
            outputs = network(inputs)
            losses.append(task.per_sample_loss(outputs, targets))
            hits.append(task.per_sample_accuracy(outputs, targets))
    return Evaluation(Loss.of(torch.cat(losses)), float(torch.cat(hits).double().mean()))
