"""How much slower a step is under Esper than in a plain PyTorch loop: `python -m tests.bench.overhead`.

Blocks of 50 steps of the two loops alternate in one process on one thread, on the same batches of the same task. The
plain loop is what a person would write: fused AdamW, the loss summed up, clipped gradients, a cosine rate, a list of
the parameters made once. It computes the same, and the benchmark fails where the weights differ by a bit at the end.
Esper's blocks run inside `train` itself; what lies between two epochs is no step and stands in a row of its own.

The slowdown is the geometric mean of the pairs' ratios, and its bound the upper end of the two-sided 95 % interval
(Student's t on the logarithms). "all dormant" has every seed dormant and a log in memory; "telemetry on" has a step
sample every 10 steps (the default) go to an embedded broker through `KafkaLog`, whose thread is this process's too.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from scipy import stats
from torch import nn

from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.testing import KEYS, REAL_CLOCK, MemoryLog
from esper.tolaria.config import RunConfig
from esper.tolaria.data import epoch_order
from esper.tolaria.learning_rate import MIN_RATE
from esper.tolaria.ports import Log
from esper.tolaria.random_streams import stream_seeds
from esper.tolaria.tasks import Samples, Task, load_task
from esper.tolaria.train import train
from tests.bench.log import kafka_log
from tests.bench.table import HEADER, Row, failed, line

BLOCK = 50
BLOCKS_PER_EPOCH = 5
RUN_ID = "bench"


class PlainLoop:
    """The loop without Esper, over the random streams of a run with seed 0; `steps(n)` takes its next n steps."""

    def __init__(self, task: Task, epochs: int) -> None:
        seeds = stream_seeds(0)
        torch.manual_seed(seeds["init"])
        self.host = task.make_host()
        self.total = task.steps(task.batch_size) * epochs
        self._task = task
        self._parameters = list(self.host.parameters())
        self._optimizer = torch.optim.AdamW(self._parameters, lr=task.learning_rate, weight_decay=0.01, fused=True)
        self._data = torch.Generator().manual_seed(seeds["data"])
        self._batches: Iterator[torch.Tensor] = iter(())
        self._taken = 0
        self.loss_sum = 0.0

    def begin_epoch(self) -> None:
        """Shuffle anew."""
        task = self._task
        self._batches = iter(epoch_order(len(task.train), task.batch_size, task.steps(task.batch_size), self._data))
        self.host.train()

    def steps(self, count: int) -> None:
        """Train."""
        host, optimizer, parameters, loss_of = self.host, self._optimizer, self._parameters, self._task.loss
        inputs, targets, rate = self._task.train.inputs, self._task.train.targets, self._task.learning_rate
        for _ in range(count):
            batch = next(self._batches)
            optimizer.zero_grad()
            loss = loss_of(host(inputs[batch]), targets[batch])
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 10.0)
            cosine = 0.5 * (1.0 + math.cos(math.pi * (self._taken / self.total)))
            optimizer.param_groups[0]["lr"] = max(rate * cosine, MIN_RATE)
            optimizer.step()
            self.loss_sum += float(loss.detach())
            self._taken += 1


@dataclass(slots=True)
class Alternation:
    """Called by `train` before each of its steps: takes the plain loop's blocks between Esper's, and every time."""

    plain: PlainLoop
    epoch_steps: int
    ratios: list[float] = field(default_factory=list)
    plain_s: list[float] = field(default_factory=list)
    between_epochs_s: list[float] = field(default_factory=list)
    _plain_took: float = 0.0
    _step: int = 0
    _began: float = 0.0

    def __call__(self) -> bool:
        """False: the run goes on."""
        place = self._step % self.epoch_steps
        self._step += 1
        if place % BLOCK:
            return False
        now = time.perf_counter()
        if place:
            self.ratios.append((now - self._began) / self._plain_took)
            self.plain_s.append(self._plain_took)
        elif self._step > 1:
            self.between_epochs_s.append(now - self._began)
        if place == self.epoch_steps - 1:
            self.plain.steps(1)  # the epoch's last step belongs to no block, for what follows it is no step
        else:
            if not place:
                self.plain.begin_epoch()
            began = time.perf_counter()
            self.plain.steps(BLOCK)
            self._plain_took = time.perf_counter() - began
        self._began = time.perf_counter()
        return False


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it: the slowdown and its upper bound (1.0 is none), and a few figures to judge them by."""

    slowdown: float
    bound: float
    pairs: int
    plain_step_us: float
    between_epochs_ms: float


def compare(task_name: str, log: Log, pairs: int, *, telemetry_every_steps: int) -> tuple[Comparison, nn.Module]:
    """Train both ways; the comparison and the host that Esper trained. The first epoch's blocks warm up."""
    torch.set_num_threads(1)
    hosts: list[nn.Module] = []
    task = load_task(task_name)
    steps = BLOCKS_PER_EPOCH * BLOCK + 1
    make_host = task.make_host

    def kept_host() -> nn.Module:
        hosts.append(make_host())
        return hosts[-1]

    task = replace(repeated(task, steps * task.batch_size), steps_per_epoch=steps)
    epochs = 1 + math.ceil(pairs / BLOCKS_PER_EPOCH)
    config = RunConfig(
        task=task_name, policy="none", epochs=epochs, telemetry_every_steps=telemetry_every_steps, rate_policy="cosine"
    )
    alternation = Alternation(PlainLoop(task, epochs), steps)
    with tempfile.TemporaryDirectory() as folder:
        train(
            config,
            replace(task, make_host=kept_host),
            log,
            clock=REAL_CLOCK,
            objects=ObjectStore(Path(folder)),
            verifier=CommandVerifier(KEYS),
            run_id=RUN_ID,
            should_stop=alternation,
        )
    plain, found = alternation.plain.host.state_dict(), hosts[0].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items()), "the two loops learnt differently"
    measured = slice(BLOCKS_PER_EPOCH, None)
    slowdown, bound = mean_and_bound(alternation.ratios[measured])
    comparison = Comparison(
        slowdown,
        bound,
        len(alternation.ratios[measured]),
        1e6 * statistics.median(alternation.plain_s[measured]) / BLOCK,
        1e3 * statistics.median(alternation.between_epochs_s),
    )
    return comparison, hosts[0]


def repeated(task: Task, samples: int) -> Task:
    """The task with its training samples repeated until there are enough for a long epoch."""
    times = math.ceil(samples / len(task.train))
    train_set = task.train
    inputs = train_set.inputs.repeat(times, *[1] * (train_set.inputs.dim() - 1))
    targets = train_set.targets.repeat(times, *[1] * (train_set.targets.dim() - 1))
    return replace(task, train=Samples(inputs[:samples], targets[:samples]))


def mean_and_bound(ratios: Sequence[float]) -> tuple[float, float]:
    """Geometric mean of the ratios and the upper end of its two-sided 95 % interval."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean + half)


def foreign_code(host: nn.Module, untouched: nn.Module) -> int:
    """How many hooks, replaced submodules and replaced forwards `host` has that `untouched` has not."""
    found = 0
    for module, twin in zip(host.modules(), untouched.modules(), strict=True):
        hooks = sum(len(table) for name, table in vars(module).items() if name.endswith("_hooks"))
        found += hooks + (type(module) is not type(twin)) + len(set(vars(module)) ^ set(vars(twin)))
    return found


def rows(*, full: bool = False, task: str = "digits") -> list[Row]:
    """The architecture's rows: the two slowdowns, and that a dormant site has no code."""
    pairs = 1_000 if full else 100
    dormant, host = compare(task, MemoryLog(), pairs, telemetry_every_steps=10**9)
    with kafka_log(RUN_ID) as log:
        telling, _ = compare(task, log, pairs, telemetry_every_steps=10)
    made = []
    for name, figure, limit in (("all dormant", dormant, 1.0), ("telemetry on", telling, 3.0)):
        fixture = (
            f"{task}, {figure.plain_step_us:,.0f} µs a plain step, {figure.pairs} pairs of {BLOCK} steps, "
            f"mean {100 * (figure.slowdown - 1):+.2f} %"
        )
        made.append(Row(f"training slowed, {name} (upper 95 %)", 100 * (figure.bound - 1), "%", fixture, limit))
    between = f"{task}, control: probe, digest, snapshot, checkpoint, acknowledged log (median)"
    return [
        *made,
        Row("the end of an epoch", telling.between_epochs_ms, "ms", between),
        Row(
            "a dormant site in the forward path",
            foreign_code(host, load_task(task).make_host()),
            "hooks or wrappers",
            f"the {task} host after that training, every submodule",
            limit=0,
        ),
    ]


def main() -> int:
    """Print the rows; 1 where a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="1,000 pairs of blocks instead of 100")
    parser.add_argument("--task", default="digits", help="a task by name (default: digits)")
    options = parser.parse_args()
    found = rows(full=options.full, task=options.task)
    sys.stdout.write("\n".join([HEADER, *map(line, found), ""]))
    return int(failed(found))


if __name__ == "__main__":
    sys.exit(main())
