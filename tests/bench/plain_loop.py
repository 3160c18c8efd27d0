"""The training loop that a person would write without Esper: what Esper's own is measured against."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from esper.tolaria.data import epoch_order, stream_seeds
from esper.tolaria.gradients import Learners, clip
from esper.tolaria.learning_rate import MIN_RATE
from esper.tolaria.tasks import Task

CLIP_NORM = 10.0


class PlainLoop:
    """Fused AdamW, gradients clipped by torch, a cosine rate, the loss summed up; the parameters listed once.

    It draws from the random streams of a run with seed 0, and so ends with that run's very weights. A `thrifty` one has
    the two shortcuts of Esper's loop that have nothing to do with Esper: gradients are set to None one by one, and
    those that are short enough are not multiplied by one. Makes its host from torch's global random stream.
    """

    def __init__(self, task: Task, epochs: int, *, thrifty: bool = False) -> None:
        seeds = stream_seeds(0)
        torch.manual_seed(seeds["init"])
        self.host = task.make_host()
        self.loss_sum = 0.0
        self._task = task
        self._steps_per_epoch = task.steps(task.batch_size)
        self._total_steps = self._steps_per_epoch * epochs
        self._thrifty = thrifty
        self._parameters = list(self.host.parameters())
        self._optimizer = torch.optim.AdamW(self._parameters, lr=task.learning_rate, weight_decay=0.01, fused=True)
        self._data = torch.Generator().manual_seed(seeds["data"])
        self._batches: Iterator[Tensor] = iter(())
        self._taken = 0

    def begin_epoch(self) -> None:
        """Shuffle anew."""
        task = self._task
        self._batches = iter(epoch_order(len(task.train), task.batch_size, self._steps_per_epoch, self._data))
        self.host.train()

    def steps(self, count: int) -> None:
        """Take the next `count` steps."""
        host, optimizer, parameters, loss_of = self.host, self._optimizer, self._parameters, self._task.loss
        inputs, targets, rate = self._task.train.inputs, self._task.train.targets, self._task.learning_rate
        learners = Learners(parameters, [])
        for _ in range(count):
            batch = next(self._batches)
            if self._thrifty:
                for parameter in parameters:
                    parameter.grad = None
            else:
                optimizer.zero_grad()
            loss = loss_of(host(inputs[batch]), targets[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            if self._thrifty:
                clip(learners, CLIP_NORM)
            else:
                nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
            cosine = 0.5 * (1.0 + math.cos(math.pi * (self._taken / self._total_steps)))
            optimizer.param_groups[0]["lr"] = max(rate * cosine, MIN_RATE)
            optimizer.step()
            self.loss_sum += float(loss.detach())
            self._taken += 1
