"""How much slower a step is under Esper than in a plain PyTorch loop: `python -m tests.bench.overhead`.

Blocks of 50 steps of the two loops alternate in one process on one thread, on the same batches of the same task.
Esper's run inside `train` itself, the plain loop is `plain_loop.py`; the two compute the same, and the benchmark fails
where their weights differ by a bit at the end. What lies between two epochs is no step and has a row of its own.

The slowdown is the geometric mean of the pairs' ratios of wall time, its bound the upper end of the two-sided 95 %
interval (Student's t on the logarithms). The same mean of processor time, all threads together, stands beside it: it
says what to believe on a busy machine. "all dormant" has every seed dormant and a log in memory; "telemetry on" has a
step sample every 10 steps (the default) go to an embedded broker through `KafkaLog` and its thread.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.testing import KEYS, REAL_CLOCK, MemoryLog
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Log, Outside
from esper.tolaria.tasks import Samples, Task, load_task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from tests.bench.log import kafka_log
from tests.bench.plain_loop import PlainLoop
from tests.bench.ratio import ratio
from tests.bench.table import HEADER, Row, failed, line

BLOCK = 50
BLOCKS_PER_EPOCH = 5
EPOCH_STEPS = BLOCKS_PER_EPOCH * BLOCK + 1
"""The last step belongs to no block, because the work between two epochs follows it."""

RUN_ID = "bench"
NEVER = 10**9


def now() -> tuple[float, float]:
    """Wall time and processor time, in seconds."""
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> tuple[float, float]:
    """Both, since then."""
    wall, processor = now()
    return wall - began[0], processor - began[1]


@dataclass(slots=True)
class Alternation:
    """Called by `train` before each of its steps: takes the plain loop's blocks between Esper's, and every time."""

    plain: PlainLoop
    pairs: list[tuple[tuple[float, float], tuple[float, float]]] = field(default_factory=list)
    """Esper's seconds and the plain loop's, each as wall and processor time."""

    between_epochs_s: list[float] = field(default_factory=list)
    _plain_took: tuple[float, float] = (0.0, 0.0)
    _step: int = 0
    _began: tuple[float, float] = (0.0, 0.0)

    def __call__(self) -> bool:
        """False: the run goes on."""
        place = self._step % EPOCH_STEPS
        self._step += 1
        if place % BLOCK:
            return False
        took = since(self._began)
        if place:
            self.pairs.append((took, self._plain_took))
        elif self._step > 1:
            self.between_epochs_s.append(took[0])
        if place == EPOCH_STEPS - 1:
            self.plain.steps(1)
        else:
            if not place:
                self.plain.begin_epoch()
            began = now()
            self.plain.steps(BLOCK)
            self._plain_took = since(began)
        self._began = now()
        return False


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it, slowdowns in percent, and the host that Esper trained."""

    mean: float
    bound: float
    processor_mean: float
    pairs: int
    plain_step_us: float
    between_epochs_ms: float
    host: nn.Module

    def row(self, what: str, task: str, limit: float | None) -> Row:
        """The bound, and all that helps to judge it."""
        fixture = (
            f"{task}, plain step {self.plain_step_us:,.0f} µs, {self.pairs} pairs of {BLOCK} steps, "
            f"mean {self.mean:+.2f} %, of processor time {self.processor_mean:+.2f} %"
        )
        return Row(f"training slowed, {what} (upper 95 %)", self.bound, "%", fixture, limit)


def compare(
    task_name: str, log: Log, pairs: int, *, telemetry_every_steps: int = NEVER, thrifty: bool = False
) -> Comparison:
    """Train both ways for so many pairs of blocks, after an epoch that warms up."""
    torch.set_num_threads(1)
    hosts: list[nn.Module] = []
    task = long_epochs(load_task(task_name))
    make_host = task.make_host

    def kept_host() -> nn.Module:
        hosts.append(make_host())
        return hosts[-1]

    epochs = 1 + math.ceil(pairs / BLOCKS_PER_EPOCH)
    alternation = Alternation(PlainLoop(task, epochs, thrifty=thrifty))
    with tempfile.TemporaryDirectory() as folder:
        objects = ObjectStore(Path(folder))
        train(
            RunConfig(task=task_name, policy="none", epochs=epochs, telemetry_every_steps=telemetry_every_steps),
            replace(task, make_host=kept_host),
            LiveWorld(Outside(log, REAL_CLOCK, objects, CommandVerifier(KEYS), None, alternation)),
            run_id=RUN_ID,
        )
    learnt = hosts[0].state_dict()
    for name, tensor in alternation.plain.host.state_dict().items():
        assert torch.equal(learnt[name], tensor), f"the two loops learnt a different {name}"
    measured = alternation.pairs[BLOCKS_PER_EPOCH:]
    by_wall, by_processor = (ratio([esper[k] for esper, _ in measured], [p[k] for _, p in measured]) for k in (0, 1))
    return Comparison(
        _percent(by_wall.mean),
        _percent(by_wall.high),
        _percent(by_processor.mean),
        len(measured),
        1e6 * statistics.median(plain[0] for _, plain in measured) / BLOCK,
        1e3 * statistics.median(alternation.between_epochs_s),
        hosts[0],
    )


def long_epochs(task: Task) -> Task:
    """The task with its training samples repeated until they make an epoch of EPOCH_STEPS."""
    samples = EPOCH_STEPS * task.batch_size
    chosen = torch.arange(samples) % len(task.train)
    train_set = Samples(task.train.inputs[chosen], task.train.targets[chosen])
    return replace(task, train=train_set, steps_per_epoch=EPOCH_STEPS)


def _percent(ratio_of: float) -> float:
    """What a ratio is above 1."""
    return 100 * (ratio_of - 1)


def foreign_code(host: nn.Module, untouched: nn.Module) -> int:
    """How many hooks, replaced submodules and added attributes `host` has that `untouched` has not."""
    found = 0
    for module, twin in zip(host.modules(), untouched.modules(), strict=True):
        hooks = sum(len(table) for name, table in vars(module).items() if name.endswith("_hooks"))
        found += hooks + (type(module) is not type(twin)) + len(vars(module).keys() ^ vars(twin).keys())
    return found


def rows(*, full: bool = False, task: str = "digits") -> list[Row]:
    """The architecture's rows: the two slowdowns, and that a dormant site has no code."""
    pairs = 400 if full else 100
    dormant = compare(task, MemoryLog(), pairs)
    thrifty = compare(task, MemoryLog(), pairs, thrifty=True)
    with kafka_log(RUN_ID) as log:
        telling = compare(task, log, pairs, telemetry_every_steps=10)
    between = f"{task}, nothing decided: probe, digest, snapshot, checkpoint, acknowledged log (median)"
    hooks = foreign_code(dormant.host, load_task(task).make_host())
    return [
        dormant.row("all dormant", task, 1.0),
        thrifty.row("all dormant, beside a loop with Esper's shortcuts", task, None),
        telling.row("telemetry on", task, 3.0),
        Row("the end of an epoch", telling.between_epochs_ms, "ms", between),
        Row("a dormant site in the forward path", hooks, "hooks or wrappers", f"the {task} host as trained", limit=0),
    ]


def main() -> int:
    """Print the rows; 1 where a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="400 pairs of blocks instead of 100")
    parser.add_argument("--task", default="digits", help="a task by name (default: digits)")
    options = parser.parse_args()
    found = rows(full=options.full, task=options.task)
    sys.stdout.write("\n".join([HEADER, *map(line, found), ""]))
    return int(failed(found))


if __name__ == "__main__":
    sys.exit(main())
