"""What the loop engine needs of whoever trains with it: the protocol `Work`, and what it is of a task, `TaskWork`.

The engine (`esper.tolaria.engine`) knows steps by the closures that it is given, and everything else of a training job
by this protocol: a task's samples and a script's own functions look the same to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import Metric, RunStarted
from esper.kasmina.passes import Closure
from esper.tolaria.data import RandomStreams, Samples, epoch_order
from esper.tolaria.flops import host_flops_per_sample
from esper.tolaria.gradients import Part
from esper.tolaria.tasks.task import Evaluation, Task, evaluate


class Work(Protocol):
    """A training job as the engine sees it; `host` is always the network as it stands, with what grew in it."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    @property
    def probe_samples(self) -> int:
        """Samples that a probe is of."""

    @property
    def evidence_samples(self) -> int:
        """Samples that evidence is of."""

    def forward(self, host: nn.Module) -> object:
        """Run the host once on a real batch."""

    def probe(self, host: nn.Module) -> Evaluation:
        """The host's figures on what gates and policies may look at: always the same samples in the same order."""

    def evidence(self, host: nn.Module) -> Closure:
        """A closure that gives the mean loss of a few of the probe's samples, to be differentiated."""

    def test(self, host: nn.Module) -> Evaluation:
        """The host's figures on what nothing else looks at; at the run's end, and once more without seeds in doubt."""

    def samples(self, batch: Any) -> int:
        """How many samples a batch has, as far as can be told."""

    def aside(self, closure: Closure) -> Closure:
        """The closure for a pass that is no step of the host's."""

    def stepped(self, closure: Closure) -> None:
        """A step was computed from this closure."""

    def source_code(self) -> Sequence[bytes]:
        """What the run's first fact refers to by its digest, to be kept as objects."""

    def started(self, host: nn.Module) -> RunStarted:
        """What a run's first fact says of the work."""


@dataclass(slots=True)
class TaskWork:
    """The work of a task, whose samples are on the run's device.

    `measured` is the part of the probe set that probes are of, `evidence_samples` how many of it are drawn for evidence
    at an epoch's end, `random` the run's streams.
    """

    task: Task
    random: RandomStreams
    batch_size: int
    measured: Samples
    evidence_samples: int
    _first: Tensor | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """The task's."""
        return self.task.name

    @property
    def probe_samples(self) -> int:
        """Of the part that is measured."""
        return len(self.measured)

    def order(self) -> Tensor:
        """Draw the next epoch's batches: indices (steps, batch), int64, on the samples' device."""
        task = self.task
        order = epoch_order(len(task.train), self.batch_size, task.steps(self.batch_size), self.random.data)
        order = order.to(task.train.inputs.device)
        self._first = order[0]
        return order

    def closure(self, host: nn.Module, indices: Tensor) -> Closure:
        """The closure of one batch of training samples."""
        inputs, targets = self.task.train.inputs[indices], self.task.train.targets[indices]
        return lambda: self.task.loss(host(inputs), targets)

    def parts(self, host: nn.Module, indices: Tensor, microbatches: int) -> list[Part]:
        """The batch in so many microbatches, for a step that aggregates their gradients; empty for one alone."""
        if microbatches == 1:
            return []
        inputs, targets = self.task.train.inputs[indices], self.task.train.targets[indices]
        pairs = zip(inputs.chunk(microbatches), targets.chunk(microbatches), strict=True)
        return [(len(each) / len(inputs), self._of(host, each, of_each)) for each, of_each in pairs]

    def _of(self, host: nn.Module, inputs: Tensor, targets: Tensor) -> Closure:
        return lambda: self.task.loss(host(inputs), targets)

    def forward(self, host: nn.Module) -> object:
        """On the first batch of the epoch, or before there was one on the first samples."""
        inputs = self.task.train.inputs
        return host(inputs[: self.batch_size] if self._first is None else inputs[self._first])

    def probe(self, host: nn.Module) -> Evaluation:
        """On the part of the probe set that is measured."""
        return evaluate(host, self.task, self.measured)

    def evidence(self, host: nn.Module) -> Closure:
        """Of samples drawn from the whole probe set."""
        probe = self.task.probe
        chosen = probe.take(torch.randperm(len(probe), generator=self.random.probe)[: self.evidence_samples])
        return lambda: self.task.loss(host(chosen.inputs), chosen.targets)

    def test(self, host: nn.Module) -> Evaluation:
        """On the test set."""
        return evaluate(host, self.task, self.task.test)

    def samples(self, batch: Any) -> int:  # noqa: ARG002 - every batch has as many
        """A whole batch."""
        return self.batch_size

    def aside(self, closure: Closure) -> Closure:
        """As it is."""
        return closure

    def stepped(self, closure: Closure) -> None:
        """Nothing to note."""

    def source_code(self) -> Sequence[bytes]:
        """The file of a person's own task."""
        return [self.task.source_code] if self.task.source_code else []

    def started(self, host: nn.Module) -> RunStarted:
        """Name, source, sizes and the fingerprint of the samples; what a step of a sample costs."""
        task = self.task
        inputs, targets = task.train.inputs[: self.batch_size], task.train.targets[: self.batch_size]
        return RunStarted(
            task=task.name,
            data_fingerprint=task.fingerprint(),
            task_source=task.source,
            flops_per_sample=host_flops_per_sample(host, task.loss, inputs, targets),
            train_samples=len(task.train),
            probe_samples=self.probe_samples,
            test_samples=len(task.test),
            metrics=[
                Metric(name=each.name, unit=each.unit, lower_is_better=each.lower_is_better)
                for each in task.measured_by
            ],
        )
