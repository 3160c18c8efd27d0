"""A task: a host, places where it can grow, three sets of samples, a loss, metrics; and the evaluation on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.errors import EsperError, InvalidInput
from esper.kasmina.gates import Loss
from esper.kasmina.sites import Site, evaluating
from esper.metric import PERCENT, Figure, Metric, check_metrics
from esper.tolaria.data import Samples, every_stream_kept, fingerprint, split
from esper.tolaria.own_code import Place, caller, told

CHUNK: Final = 512
"""Samples that are evaluated at a time: bounds the memory, whatever the set."""

PerSample = Callable[[Any, Any], Tensor]
"""Outputs of the host and targets, both with N samples, to one figure per sample, shape (N,)."""

MakeLoader = Callable[[], Iterable[Any]]
MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
MakeScheduler = Callable[[torch.optim.Optimizer], Any]
Scheduled = Literal["step", "epoch"]

UNKNOWN_STEPS: Final = 100
"""Steps of an epoch before there was one, where nobody has said how many there are; a first epoch shows it."""

_FORMS: Final = {
    "make_loader": "what makes one, such as make_loader=lambda: DataLoader(...)",
    "make_optimizer": "what makes one, such as make_optimizer=lambda host: torch.optim.SGD(host.parameters(), lr=0.1)",
    "make_scheduler": "what makes one, such as make_scheduler=lambda optimizer: StepLR(optimizer, 1000)",
}


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


def as_samples(batch: Any, at: str = "") -> Samples:
    """A loader's batch, (inputs, targets), as samples; raises InvalidInput, beginning with `at`, for anything else."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        what = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else f"a {type(batch).__name__}"
        raise InvalidInput(
            f"{at}a batch of the loader is {what}; it must be two, (inputs, targets), each a tensor or a dictionary, "
            "list or tuple of tensors"
        )
    return Samples(*batch)


def steps_of(loader: Iterable[Any]) -> int:
    """The loader's batches; 0 where it cannot say, as one over a dataset that is only iterated."""
    try:
        return len(loader) if isinstance(loader, Sized) else 0
    except TypeError:
        return 0


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

    `make_loader()` gives what is learnt from in place of `train`: any iterable, gone through once an epoch, of
    (inputs, targets) batches. One with `state_dict` and `load_state_dict` is checkpointed with the run. Its first batch
    is looked at beforehand, from a loader of its own, so each call makes a fresh one. `batch_size` is then the
    loader's, and `steps_per_epoch` ends an epoch early. `make_optimizer(host)` gives any torch optimiser, in place of
    Esper's own and its rates; `make_scheduler(optimizer)` what is stepped after every step or, with
    `scheduled="epoch"`, after every epoch.

    Raises InvalidInput where these do not fit each other.
    """

    name: str
    make_host: Callable[[], nn.Module]
    sites: tuple[Site, ...]
    train: Samples = None  # type: ignore[assignment]  # the first batch of the loader where there is one
    probe: Samples = None  # type: ignore[assignment]  # always there once it is made, as the next
    test: Samples = None  # type: ignore[assignment]
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
    make_loader: MakeLoader | None = None
    make_optimizer: MakeOptimizer | None = None
    make_scheduler: MakeScheduler | None = None
    scheduled: Scheduled = "step"
    loader_steps: int = 0
    """Batches that the loader says it has; 0 where it cannot say, or there is none."""
    place: Place | None = field(default=None, compare=False, repr=False)
    """The line of a person's file that made it, for messages; None where no code but Esper's did."""

    def __post_init__(self) -> None:
        if self.place is None:
            object.__setattr__(self, "place", caller())
        self._check_kinds()
        if self.make_loader is not None and self.train is None:
            self._look_at_loader(self.make_loader)
        for name in ("train", "probe", "test"):
            if not isinstance(getattr(self, name), Samples):
                way_out = ", or make_loader=" if name == "train" else ""
                raise InvalidInput(
                    f"{self.at(name)}task {self.name}: {name} is a {type(getattr(self, name)).__name__}; give "
                    f"{name}=Samples(inputs, targets){way_out}"
                )
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
                f"{self.at('make_host')}make_host is a {kind} already, and each run makes its own from its seed; "
                f"give what makes one, such as make_host=lambda: {kind}(...)"
            )
        for site in self.sites:
            if not isinstance(site, Site):
                raise InvalidInput(
                    f"{self.at('sites')}site {site!r} is a {type(site).__name__}; name it with what it gives, such as "
                    f"Site({site!r}, 'vector'), or 'image' or 'token'"
                )

        for name, function in (
            ("per_sample_loss", self.per_sample_loss),
            ("per_sample_accuracy", self.per_sample_accuracy),
        ):
            if not callable(function):
                raise InvalidInput(
                    f"{self.at(name)}{name} is {function!r}; give a function f(outputs, targets) with a number for "
                    "each sample, or leave it out"
                )
        for name, value in (
            ("make_loader", self.make_loader),
            ("make_optimizer", self.make_optimizer),
            ("make_scheduler", self.make_scheduler),
        ):
            if value is not None and (not callable(value) or isinstance(value, torch.optim.Optimizer)):
                raise InvalidInput(
                    f"{self.at(name)}{name} is a {type(value).__name__} already, and each run makes its own; give "
                    f"{_FORMS[name]}"
                )
        if self.make_scheduler is not None and self.make_optimizer is None:
            raise InvalidInput(
                f"{self.at('make_scheduler')}make_scheduler needs make_optimizer: Esper's own optimiser has its rates "
                "from rate_policy (cosine unless --set says otherwise)"
            )
        if self.scheduled not in get_args(Scheduled):
            raise InvalidInput(f"{self.at('scheduled')}scheduled is {self.scheduled!r}; it is 'step' or 'epoch'")

    def _look_at_loader(self, make_loader: MakeLoader) -> None:
        """Take the loader's first batch for what the training samples are like; no random stream is drawn from."""
        at = self.at("make_loader")
        with every_stream_kept(torch.device("cpu")):
            try:
                loader = make_loader()
                first = next(iter(loader), None)
            except EsperError:
                raise
            except Exception as error:  # of a person's code, anything
                raise InvalidInput(f"{at}make_loader fails with {told(error)}") from error
        if first is None:
            raise InvalidInput(f"{at}what make_loader gives has no batch")
        object.__setattr__(self, "train", as_samples(first, at))
        object.__setattr__(self, "batch_size", len(self.train))
        object.__setattr__(self, "loader_steps", steps_of(loader))

    def at(self, argument: str) -> str:
        """The line of an argument as a message begins with it."""
        return f"{self.place.argument(argument)}: " if self.place is not None else ""

    def steps(self, batch_size: int) -> int:
        """Optimiser steps in an epoch of this batch size; raises InvalidInput where there are too few samples."""
        if self.make_loader is not None:
            if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
                raise InvalidInput(f"task {self.name}: steps_per_epoch is {self.steps_per_epoch}; it is 1 or more")
            return min(filter(None, (self.steps_per_epoch, self.loader_steps)), default=UNKNOWN_STEPS)
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

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The scalar that training lowers: the mean of the samples' losses."""
        return self.per_sample_loss(outputs, targets).mean()

    @property
    def measured_by(self) -> tuple[Metric, ...]:
        """The metrics, the main one first; there is always one."""
        if self.metrics:
            return tuple(self.metrics)
        if self.train.exact:
            return (replace(ACCURACY, per_sample=self.per_sample_accuracy),)
        loss = Metric("loss", lower_is_better=True, per_sample=self.per_sample_loss)
        if self.own_accuracy is None:
            return (loss,)
        return (loss, Metric("score", lower_is_better=False, per_sample=self.own_accuracy))

    @property
    def own_accuracy(self) -> PerSample | None:
        """What gives a sample's accuracy where no metric says it; None where there are no classes to be right on."""
        unsaid = self.per_sample_accuracy is share_correct and not self.train.exact
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
        inputs: Any,
        targets: Any,
        epochs: int = 20,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        per_sample_loss: PerSample = cross_entropy,
        per_sample_accuracy: PerSample = share_correct,
        metrics: Sequence[Metric] = (),
        make_optimizer: MakeOptimizer | None = None,
        make_scheduler: MakeScheduler | None = None,
        scheduled: Scheduled = "step",
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
            make_optimizer=make_optimizer,
            make_scheduler=make_scheduler,
            scheduled=scheduled,
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
        for part in samples.parts(CHUNK):
            outputs = network(part.inputs)
            for function, values in per_sample.items():
                values.append(function(outputs, part.targets))
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
