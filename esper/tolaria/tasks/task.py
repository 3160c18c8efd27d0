"""A task: a host, places where it can grow, three sets of samples, a loss, metrics; and the evaluation on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.errors import InvalidInput
from esper.kasmina.gates import Loss
from esper.kasmina.sites import Site, evaluating
from esper.metric import PERCENT, Figure, Metric, check_metrics
from esper.tolaria.data import Samples, fingerprint, split
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


ACCURACY: Final = Metric("accuracy", PERCENT, lower_is_better=False, per_sample=share_correct, scale=100.0)
"""The share of targets that have the largest logit."""

NATS: Final = Metric("loss", "nats", lower_is_better=True, per_sample=cross_entropy)
"""Mean cross-entropy: what text is measured by."""


def perceptron_sites(layers: int) -> tuple[Site, ...]:
    """The sites of an MLP: after each hidden layer a module can grow, and each can become wider itself."""
    names = [*(f"layers.{layer}.0" for layer in range(layers)), "head"]
    return (
        *(Site(f"layers.{layer}", "vector") for layer in range(layers)),
        *(Site(producer, "vector", consumer=consumer) for producer, consumer in pairwise(names)),
    )


def transformer_sites(blocks: int, head_size: int) -> tuple[Site, ...]:
    """The sites of a TransformerLite: before and after each block, the GELU layer and the attention of each.

    The layer can become wider, and the attention, whose heads have `head_size` features, can have more of them.
    """
    return (
        Site("embedding", "token"),
        *(Site(f"blocks.{block}", "token") for block in range(blocks)),
        *(Site(f"blocks.{block}.up", "token", consumer=f"blocks.{block}.down") for block in range(blocks)),
        *(Site(f"blocks.{b}.qkv", "token", consumer=f"blocks.{b}.out", head_size=head_size) for b in range(blocks)),
    )


@dataclass(frozen=True, slots=True)
class Task:
    """A training job.

    `make_host` draws its initial weights from torch's global random stream. `sites` name submodules of the host.
    `train` is learnt from, `probe` is what gates, heuristics and policies may look at, and `test` is for the final
    report alone; the three share no sample. An epoch is `steps_per_epoch` batches of `batch_size`, or all of `train`
    where it is None (a last incomplete batch is left out). `epochs`, `batch_size` and `learning_rate` are defaults of
    the run's configuration. `sized_host(params)` makes a static host of about so many parameters, for comparisons.

    `metrics` say what the network is measured by on the probe and test sets, the main one first; each brings the
    function that computes it. Without them a task with classes has its accuracy, and one whose targets are floating
    point its loss. One called accuracy, in per cent or from 0 to 1, is what policies take for it.

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
    metrics: Sequence[Metric] = ()
    place: Place | None = field(default=None, compare=False, repr=False)
    """The line of a person's file that made it, for messages; None where no code but Esper's did."""

    def __post_init__(self) -> None:
        if self.place is None:
            object.__setattr__(self, "place", caller())
        self._check_kinds()
        check_metrics(self.metrics, f"task {self.name}")
        for metric in self.metrics:
            if not metric.computed:
                raise InvalidInput(
                    f"task {self.name}: metric {metric.name} has no function; give it per_sample=f or per_set=f with "
                    "f(outputs, targets)"
                )
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

    def fingerprint(self) -> str:
        """The SHA-256 of all its samples, which a run records."""
        return fingerprint([self.train, self.probe, self.test])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The scalar that training lowers: the mean of the samples' losses."""
        return self.per_sample_loss(outputs, targets).mean()

    @property
    def measured_by(self) -> tuple[Metric, ...]:
        """The metrics, the main one first; there is always one."""
        if self.metrics:
            return tuple(self.metrics)
        if not self.train.targets.is_floating_point():
            return (replace(ACCURACY, per_sample=self.per_sample_accuracy),)
        loss = Metric("loss", lower_is_better=True, per_sample=self.per_sample_loss)
        if self.own_accuracy is None:
            return (loss,)
        return (loss, Metric("score", lower_is_better=False, per_sample=self.own_accuracy))

    @property
    def own_accuracy(self) -> PerSample | None:
        """What gives a sample's accuracy where no metric says it; None where there are no classes to be right on."""
        unsaid = self.per_sample_accuracy is share_correct and self.train.targets.is_floating_point()
        return None if self.metrics or unsaid else self.per_sample_accuracy

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
        metrics: Sequence[Metric] = (),
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
            metrics=metrics,
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of a network on a set: `loss` with that of each sample, and each metric, the main one first.

    `accuracy` is the mean share of 0 to 1, not a number where the task has metrics and none of them is that.
    """

    loss: Loss
    accuracy: float
    figures: tuple[Figure, ...] = ()


@torch.no_grad()
def evaluate(network: nn.Module, task: Task, samples: Samples) -> Evaluation:
    """Loss and metrics of the network, in evaluation mode, on all `samples` in their order; it is left unchanged.

    One forward pass for all of them. Raises InvalidInput for a metric's function that gives anything but what Metric
    says of it.
    """
    metrics = task.measured_by
    functions = dict.fromkeys(
        (task.per_sample_loss, *(each.per_sample for each in metrics if each.per_sample is not None))
    )
    if task.own_accuracy is not None:
        functions[task.own_accuracy] = None
    per_sample: dict[PerSample, list[Tensor]] = {function: [] for function in functions}
    whole = any(metric.per_set is not None for metric in metrics)
    kept: list[Tensor] = []
    with evaluating(network):
        for inputs, targets in zip(
            *(torch.split(each, CHUNK) for each in (samples.inputs, samples.targets)), strict=True
        ):
            outputs = network(inputs)
            for function, values in per_sample.items():
                values.append(function(outputs, targets))
            if whole:
                kept.append(outputs)
    loss = Loss.of(torch.cat(per_sample[task.per_sample_loss]))
    means = {function: _mean(task, function, values, len(samples)) for function, values in per_sample.items()}
    means[task.per_sample_loss] = loss.mean, loss.stderr
    outputs = torch.cat(kept) if whole else torch.empty(0)
    figures = tuple(_figure(metric, means, outputs, samples.targets) for metric in metrics)
    accuracy = _share(metrics, figures, means) if task.own_accuracy is None else means[task.own_accuracy][0]
    return Evaluation(loss, accuracy, figures)


def _mean(task: Task, function: PerSample, values: list[Tensor], count: int) -> tuple[float, float]:
    """Mean and standard error of what a function gave for `count` samples; a metric's has to be one figure for each."""
    metric = next((each for each in task.metrics if each.per_sample is function), None)
    if metric is not None and function is not task.per_sample_loss:
        got = [tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__ for each in values]
        if any(isinstance(shape, str) or len(shape) != 1 for shape in got) or sum(map(len, values)) != count:
            raise InvalidInput(
                f"task {task.name}: per_sample of metric {metric.name} returned {got[0]}; it must be a tensor with one "
                "figure for each sample, shape (N,)"
            )
    found = torch.cat(values).double()
    stderr = float(found.std()) / math.sqrt(found.numel()) if found.numel() > 1 else 0.0
    return float(found.mean()), stderr


def _figure(metric: Metric, means: Mapping[PerSample, tuple[float, float]], outputs: Tensor, targets: Tensor) -> Figure:
    if metric.per_sample is not None:
        return metric.of(*(metric.scale * each for each in means[metric.per_sample]))
    assert metric.per_set is not None
    found = metric.per_set(outputs, targets)
    try:
        return metric.of(metric.scale * float(found))
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInput(
            f"metric {metric.name}: per_set returned {type(found).__name__}; it must be one number"
        ) from None


def _share(
    metrics: Sequence[Metric], figures: Sequence[Figure], means: Mapping[PerSample, tuple[float, float]]
) -> float:
    """The metric called accuracy as a share of 0 to 1; not a number where there is none."""
    for metric, figure in zip(metrics, figures, strict=True):
        if metric.name == ACCURACY.name and metric.unit in ("", PERCENT):
            full = 100.0 if metric.unit == PERCENT else 1.0
            return means[metric.per_sample][0] if metric.per_sample and metric.scale == full else figure.value / full
    return math.nan
