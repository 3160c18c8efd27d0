"""What Esper adds to a step of a person's own script, growth off: `python -m tests.bench.script_step`.

Blocks of 50 steps alternate in one process on one thread: the plain loop, the same under `esper.grow` with
`policy="none"`, and that with ten figures of one's own recorded in every step, as people do with a logger. Loggers that
are installed (`tests.bench.loggers`) record ten figures a step in the same run; the others are named. All of it is
processor time of the one thread, which neighbours on the machine disturb the least; what a logger does on another
thread or in another process is not in its figure. The slowdown is the geometric mean of the pairs' ratios, its bound
the upper end of the two-sided 95 % interval; what is added to a step is the difference of the medians of a step's time.
The nets end with the same weights to the bit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import esper
from tests.bench.loggers import loggers
from tests.bench.ratio import ratio
from tests.bench.table import HEADER, Row, failed, line

BLOCK = 50
RECORDED = 5
"""Times in a block that each logger records ten figures: the slowest takes milliseconds."""
BATCH, FEATURES, WIDTH = 64, 64, 256
TEN = {f"figure {number}": 0.5 * number for number in range(10)}
QUICKEST_US = 47.0
"""Trackio's median for ten scalars a step, the quickest of the loggers that people use, on a machine of this kind."""


class Loop:
    """A net and its optimiser, and how long its steps and blocks took."""

    def __init__(self) -> None:
        self.model = net()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.step_s: list[float] = []
        self.block_s: list[float] = []

    def block(self, step: Callable[[Tensor, Tensor], object], batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Take and time a block of steps."""
        began = last = time.thread_time()
        for _ in range(BLOCK):
            step(*next(batches))
            now = time.thread_time()
            self.step_s.append(now - last)
            last = now
        self.block_s.append(last - began)

    def plain(self, inputs: Tensor, targets: Tensor) -> None:
        """A step as a person writes it."""
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(inputs), targets).backward()
        self.optimizer.step()


def net() -> nn.Module:
    """The net, always with the same weights."""
    torch.manual_seed(0)
    middle = [layer for _ in range(3) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.ReLU(), *middle, nn.Linear(WIDTH, 10))


def rows(*, full: bool = False) -> list[Row]:
    """The slowdown, what ten figures a step add, and the same of the loggers that are installed."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    inputs, targets = torch.randn(64 * BATCH, FEATURES), torch.randint(10, (64 * BATCH,))
    data = [*zip(inputs.split(BATCH), targets.split(BATCH), strict=True)]
    pairs = 200 if full else 40
    plain, esperal, telling = Loop(), Loop(), Loop()
    others: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:

        def session(loop: Loop, name: str) -> Any:
            def probe(model: nn.Module) -> Tensor:
                return functional.cross_entropy(model(inputs[:BATCH]), targets[:BATCH], reduction="none")

            return esper.grow(
                loop.model, loop.optimizer, probe=probe, epochs=1, policy="none", log=None, data_dir=Path(folder) / name
            )

        known, missing = loggers(Path(folder), TEN)
        with session(esperal, "one") as run, session(telling, "two") as told:
            endless = [data[number % len(data)] for number in range((pairs + 2) * BLOCK)]
            first, second, third = iter(endless), iter(run_batches(run, endless)), iter(run_batches(told, endless))

            def step(inputs: Tensor, targets: Tensor) -> None:
                run.step(lambda: functional.cross_entropy(esperal.model(inputs), targets))

            def step_and_tell(inputs: Tensor, targets: Tensor) -> None:
                told.step(lambda: functional.cross_entropy(telling.model(inputs), targets))
                told.log(TEN)

            for number in range(pairs + 1):
                plain.block(plain.plain, first)
                esperal.block(step, second)
                telling.block(step_and_tell, third)
                for name, record in known.items():
                    for place in range(RECORDED):
                        began = time.thread_time()
                        record(1 + number * RECORDED + place)
                        others.setdefault(name, []).append(time.thread_time() - began)
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(esperal.model.state_dict()[name], tensor), f"the two loops learnt a different {name}"
    slowed = ratio(esperal.block_s[1:], plain.block_s[1:])
    mean, bound = (100 * (each - 1) for each in (slowed.mean, slowed.high))
    median = {
        name: 1e6 * statistics.median(loop.step_s[BLOCK:])
        for name, loop in (("plain", plain), ("esper", esperal), ("told", telling))
    }
    logged = {name: 1e6 * statistics.median(took) for name, took in others.items()}
    limit = min(QUICKEST_US, *logged.values()) if logged else QUICKEST_US
    beside = "".join(f"; {name} {why}" for name, why in missing.items())
    fixture = f"{WIDTH} wide, batch {BATCH}, plain step {median['plain']:,.0f} µs, {pairs} pairs of {BLOCK} steps"
    return [
        Row("a script's step slowed, growth off (upper 95 %)", bound, "%", f"{fixture}, mean {mean:+.2f} %", 3.0),
        Row("added to a script's step, growth off (p50)", median["esper"] - median["plain"], "µs", fixture, limit),
        Row(
            "the same with ten figures recorded (p50)", median["told"] - median["plain"], "µs", fixture + beside, limit
        ),
        *(Row(f"ten figures recorded by {name} (p50)", each, "µs", "in the same run") for name, each in logged.items()),
    ]


def run_batches(run: Any, batches: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of the run's one epoch."""
    for _ in run.epochs():
        yield from run.batches(batches)


def main() -> int:
    """Print the rows; 1 where a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the stated counts, instead of a quick form")
    found = rows(full=parser.parse_args().full)
    sys.stdout.write("\n".join([HEADER, *map(line, found)]) + "\n")
    return int(failed(found))


if __name__ == "__main__":
    sys.exit(main())
