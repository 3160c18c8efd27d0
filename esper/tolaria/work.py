"""What the loop engine needs of whoever trains with it: the protocol `Work`, and what it is of a task, `TaskWork`.

The engine (`esper.tolaria.engine`) knows steps by the closures that it is given, and everything else of a training job
by this protocol: a task's samples and a script's own functions look the same to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import Metric, RunStarted
from esper.kasmina.passes import Closure
from esper.tolaria.data import RandomStreams, Samples, epoch_order
from esper.tolaria.flops import host_flops_per_sample
from esper.tolaria.gradients import Part
from esper.tolaria.tasks.task import Evaluation, Scheduled, Task, as_samples, evaluate


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
    """The work of a task, whose samples are on the run's device; a batch is indices of them, or one of its `loader`'s.

    `measured` is the part of the probe set that probes are of, `evidence_samples` how many of it are drawn for evidence
    at an epoch's end, `random` the run's streams.
    """

    task: Task
    random: RandomStreams
    batch_size: int
    measured: Samples
    evidence_samples: int
    loader: Iterable[Any] | None = None
    scheduler: Any = None
    count_attention: bool = False
    _first: Samples | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """The task's."""
        return self.task.name

    @property
    def probe_samples(self) -> int:
        """Of the part that is measured."""
        return len(self.measured)

    def order(self) -> Iterable[Any]:
        """The next epoch's batches: drawn indices (steps, batch), int64, on the samples' device; or the loader's."""
        task = self.task
        if self.loader is not None:
            at = task.at("make_loader")
            batches = islice(self.loader, task.steps_per_epoch)
            return (as_samples(batch, at).to(task.train.device) for batch in batches)
        order = epoch_order(len(task.train), self.batch_size, task.steps(self.batch_size), self.random.data)
        order = order.to(task.train.device)
        self._first = task.train.take(order[0])
        return order

    def _of_batch(self, batch: Any) -> tuple[Any, Any]:
        """Inputs and targets of a batch."""
        train = self.task.train
        if isinstance(batch, Samples) or not isinstance(train.inputs, Tensor) or not isinstance(train.targets, Tensor):
            samples = batch if isinstance(batch, Samples) else train.take(batch)
            return samples.inputs, samples.targets
        return train.inputs[batch], train.targets[batch]

    def closure(self, host: nn.Module, batch: Any) -> Closure:
        """The closure of one batch of training samples."""
        return self._of(host, *self._of_batch(batch))

    def parts(self, host: nn.Module, batch: Any, microbatches: int) -> list[Part]:
        """The batch in so many microbatches, for a step that aggregates their gradients; empty for one alone."""
        if microbatches == 1:
            return []
        whole = Samples(*self._of_batch(batch))
        size = -(-len(whole) // microbatches)  # as `Tensor.chunk` cuts
        return [(len(each) / len(whole), self._of(host, each.inputs, each.targets)) for each in whole.parts(size)]

    def _of(self, host: nn.Module, inputs: Any, targets: Any) -> Closure:
        return lambda: self.task.loss(host(inputs), targets)

    def forward(self, host: nn.Module) -> object:
        """On the first batch of the epoch, or before there was one on the first samples."""
        return host((self._first or self.task.train.head(self.batch_size)).inputs)

    def schedule(self, after: Scheduled) -> None:
        """Step the task's own scheduler, if it is stepped after such a thing."""
        if self.scheduler is not None and self.task.scheduled == after:
            self.scheduler.step()

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

    def samples(self, batch: Any) -> int:
        """A whole batch; of a loader's what there is, the last may be smaller."""
        return len(batch) if isinstance(batch, Samples) else self.batch_size

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
        return RunStarted(
            task=task.name,
            data_fingerprint=task.fingerprint(),
            task_source=task.source,
            flops_per_sample=host_flops_per_sample(
                host, task.loss, task.train.head(self.batch_size), attention=self.count_attention
            ),
            train_samples=len(task.train) if self.loader is None else self.batch_size * task.loader_steps,
            probe_samples=self.probe_samples,
            test_samples=len(task.test),
            metrics=[
                Metric(name=each.name, unit=each.unit, lower_is_better=each.lower_is_better)
                for each in task.measured_by
            ],
        )
