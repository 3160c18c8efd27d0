"""What Esper adds to a step of a person's own script, growth off: `python -m tests.bench.script_step`.

Loops take turns in one process on one thread, in blocks of 50 steps: the plain loop, the same under `esper.grow` with
`policy="none"`, and, where steps are short, that with ten figures recorded in every step, as people do with
a logger. A round is plain, Esper, telling, telling, Esper, plain, so that whatever drifts strikes all alike. The long
step is that of the first two alone: three such nets do not fit into a processor's cache, and only the middle one never
follows itself (2.5 to 4 % in place of 0.7 on one machine). Loggers that are
installed (`tests.bench.loggers`) record ten figures a step in the same run; the others are named. All of it is
processor time of the one thread, which neighbours on the machine disturb the least; what a logger does on another
thread or in another process is not in its figure.

The slowdown is that of a step of a millisecond and a half: the geometric mean of the rounds' ratios, its bound the
upper end of the two-sided 95 % interval. What is added is told of a step of a quarter of one, because a long step
varies by more than that from run to run: a round's figure is the difference of the medians of its blocks' steps, the
row is the upper end of the 95 % interval of the rounds' median, by the order of the rounds. The nets end with the same
weights to the bit.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
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
"""Times in a round that each logger records ten figures: the slowest takes milliseconds."""
BATCH, FEATURES = 64, 64
LONG, SHORT = 256, 16
"""Widths of the nets whose steps take a millisecond and a half, and a quarter of one."""
TEN = {f"figure {number}": 0.5 * number for number in range(10)}
QUICKEST_US = 47.0
"""Trackio's median for ten scalars a step, the quickest of the loggers that people use, on a machine of this kind."""


class Loop:
    """A net and its optimiser, the median of each block's steps, and how long each block took."""

    def __init__(self, width: int) -> None:
        self.model = net(width)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.step_us: list[float] = []
        self.block_s: list[float] = []

    def block(self, step: Callable[[Tensor, Tensor], object], batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Take and time a block of steps."""
        steps: list[float] = []
        began = last = time.thread_time()
        for _ in range(BLOCK):
            step(*next(batches))
            now = time.thread_time()
            steps.append(now - last)
            last = now
        self.step_us.append(1e6 * statistics.median(steps))
        self.block_s.append(last - began)

    def plain(self, inputs: Tensor, targets: Tensor) -> None:
        """A step as a person writes it."""
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(inputs), targets).backward()
        self.optimizer.step()


def net(width: int) -> nn.Module:
    """The net, always with the same weights."""
    torch.manual_seed(0)
    middle = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(FEATURES, width), nn.ReLU(), *middle, nn.Linear(width, 10))


@dataclass(frozen=True, slots=True)
class Added:
    """What a loop adds to the plain one's step, in microseconds: the rounds' median and its 95 % interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, loop: Loop, plain: Loop) -> Added:
        """Of two loops that took turns, without their first round; infinite bounds where there are too few rounds."""
        pairs = zip(loop.step_us[2:], plain.step_us[2:], strict=True)
        blocks = [here - there for here, there in pairs]
        rounds = sorted((first + second) / 2 for first, second in zip(blocks[::2], blocks[1::2], strict=True))
        n = len(rounds)
        place = math.floor(n / 2 - 0.98 * math.sqrt(n))  # of the sign test's interval
        bounds = (rounds[place], rounds[n - 1 - place]) if place >= 0 else (-math.inf, math.inf)
        return cls(statistics.median(rounds), *bounds)


def race(width: int, rounds: int, folder: Path, others: Callable[[int], None] | None = None) -> tuple[Loop, Loop, Loop]:
    """So many rounds of the plain loop and Esper's; with `others`, which is called after each, of the third as well."""
    torch.manual_seed(1)
    inputs, targets = torch.randn(64 * BATCH, FEATURES), torch.randint(10, (64 * BATCH,))
    data = [*zip(inputs.split(BATCH), targets.split(BATCH), strict=True)]
    plain, esperal, telling = Loop(width), Loop(width), Loop(width)

    def session(loop: Loop, name: str) -> Any:
        def probe(model: nn.Module) -> Tensor:
            return functional.cross_entropy(model(inputs[:BATCH]), targets[:BATCH], reduction="none")

        return esper.grow(
            loop.model, loop.optimizer, probe=probe, epochs=1, policy="none", log=None, data_dir=folder / name
        )

    with ExitStack() as stack:
        run = stack.enter_context(session(esperal, f"one {width}"))
        told = stack.enter_context(session(telling, f"two {width}")) if others else None
        endless = [data[number % len(data)] for number in range(2 * (rounds + 2) * BLOCK)]
        first, second = iter(endless), iter(run_batches(run, endless))

        def step(inputs: Tensor, targets: Tensor) -> None:
            run.step(lambda: functional.cross_entropy(esperal.model(inputs), targets))

        def step_and_tell(inputs: Tensor, targets: Tensor) -> None:
            told.step(lambda: functional.cross_entropy(telling.model(inputs), targets))
            told.log(TEN)

        turns = [(plain, plain.plain, first), (esperal, step, second)]
        if told is not None:
            turns.append((telling, step_and_tell, iter(run_batches(told, endless))))
        gc.collect()
        gc.freeze()  # one look at all that torch holds takes as long as a hundred steps, in whichever loop it falls due
        for number in range(rounds + 1):
            for loop, takes, batches in [*turns, *reversed(turns)]:
                loop.block(takes, batches)
            if others is not None:
                others(number)
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(esperal.model.state_dict()[name], tensor), f"the two loops learnt a different {name}"
    return plain, esperal, telling


def rows(*, full: bool = False, rounds: tuple[int, int] | None = None) -> list[Row]:
    """The slowdown, what ten figures a step add, and the same of the loggers that are installed.

    `rounds` are those of the long step and of the short one.
    """
    torch.set_num_threads(1)
    long, short = rounds or ((100, 400) if full else (20, 60))
    others: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        plain, esperal, _ = race(LONG, long, Path(folder))
        slowed = ratio(_rounds(esperal), _rounds(plain))
        mean, bound = (100 * (each - 1) for each in (slowed.mean, slowed.high))
        slow_us = statistics.median(plain.step_us)
        known, missing = loggers(Path(folder), TEN)

        def record(number: int) -> None:
            for name, log in known.items():
                for place in range(RECORDED):
                    began = time.thread_time()
                    log(1 + number * RECORDED + place)
                    others.setdefault(name, []).append(time.thread_time() - began)

        plain, esperal, telling = race(SHORT, short, Path(folder), record)
    logged = {name: 1e6 * statistics.median(took) for name, took in others.items()}
    limit = min(QUICKEST_US, *logged.values()) if logged else QUICKEST_US
    beside = "".join(f"; {name} {why}" for name, why in missing.items())

    def fixture(width: int, step_us: float, count: int, blocks: int) -> str:
        return f"{width} wide, batch {BATCH}, plain step {step_us:,.0f} µs, {count} rounds of {blocks} x {BLOCK} steps"

    brief = fixture(SHORT, statistics.median(plain.step_us), short, 6)
    alone, told = Added.of(esperal, plain), Added.of(telling, plain)
    return [
        Row(
            "a script's step slowed, growth off (upper 95 %)",
            bound,
            "%",
            f"{fixture(LONG, slow_us, long, 4)}, mean {mean:+.2f} %",
            3.0,
        ),
        Row(
            "added to a script's step, growth off (p50, upper 95 %)",
            alone.high,
            "µs",
            f"{brief}, median {alone.median:.1f} µs",
            limit,
        ),
        Row(
            "the same with ten figures recorded (p50, upper 95 %)",
            told.high,
            "µs",
            f"{brief}, median {told.median:.1f} µs{beside}",
            limit,
        ),
        *(Row(f"ten figures recorded by {name} (p50)", each, "µs", "in the same run") for name, each in logged.items()),
    ]


def _rounds(loop: Loop) -> list[float]:
    """How long a loop's two blocks of each round took, without the first."""
    return [first + second for first, second in zip(loop.block_s[2::2], loop.block_s[3::2], strict=True)]


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
