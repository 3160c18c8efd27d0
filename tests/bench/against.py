"""Whether this tree is slower than another one: drain, publish and query, in turns, in processor seconds.

    python -m tests.bench.against TREE [--runs 10]
    python -m tests.bench.against TREE --rows relive archive      # the rows of those benchmarks instead

TREE is another checkout with an environment of its own in TREE/.venv, for instance

    git worktree add --detach ../before v0.1.0       # then make ../before/.venv, as docs/getting-started.md says
    python -m tests.bench.against ../before

A run is a pair: each tree has a process, a broker and a folder of its own, and they take turns step by step, this tree
first in every other pair, so that what the machine does meanwhile meets both. A figure is the geometric mean of the
pairs' ratios of processor time, this tree to the other one, and its 95 % interval (Student's t on the logarithms);
below 1 this tree is quicker. A figure is ok where its whole interval keeps `--limit` and has failed where all of it
lies above. Where the limit lies within the interval nothing is proved, which is said: more runs, or a quieter machine.

With `--rows` each tree prints the rows of its own benchmarks of those names, in turns, and what both have is compared,
in its own unit: rates by what one of them takes, so that below 1 is quicker there, too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.ratio import Ratio, ratio
from tests.bench.table import HEADER, Row, failed, line

HERE = Path(__file__).parents[2]
EVENTS = 30_000
"""Signed records that a publication publishes, and that are offered `OFFERS` times in requests encoded beforehand."""
ARCHIVED = 100_000
"""Events of the archive that is asked."""
OFFERS = 6
ASKS = 10
STEPS = {
    "publish": "a producer's and its broker's",
    "drain": "the archiver's",
    "offer": "the broker's alone, requests encoded beforehand",
    "query": "every standard question, one thread",
}
TWICE = ("publish", "offer", "query")
"""Steps that are done twice in a pair, A B B A; a drain empties the log and is done once."""
LIMIT = 1.03


class Tree:
    """The process that works for one tree."""

    def __init__(self, process: subprocess.Popen[str], root: Path) -> None:
        self._process, self._root = process, root
        self._answer()

    def do(self, step: str) -> float:
        """Seconds of the processor that the step took."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{step}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> float | str:
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            raise SystemExit(f"{self._root} ended with {self._process.wait()}; why is above")
        answer: float | str = json.loads(said)
        return answer


@contextmanager
def working(root: Path, kept: Path, *, events: int, archived: int) -> Iterator[Tree]:
    """A tree's process for a pair."""
    command = [str(root / ".venv/bin/python"), "-P", str(Path(__file__).with_name("against_work.py")), str(kept)]
    command += map(str, (events, archived, OFFERS, ASKS))
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment()
    ) as process:
        yield Tree(process, root)  # at the end its stdin is closed, and it ends


def compared(
    here: Path, there: Path, runs: int, *, events: int = EVENTS, archived: int = ARCHIVED
) -> dict[str, tuple[list[float], list[float]]]:
    """By step: what each pair took in tree `here` and in tree `there`, in seconds of the processor."""
    roots = (here, there)
    took: dict[str, tuple[list[float], list[float]]] = {step: ([], []) for step in STEPS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(runs):
            with ExitStack() as stack:
                trees = [
                    stack.enter_context(working(root, Path(folder, str(k)), events=events, archived=archived))
                    for k, root in enumerate(roots)
                ]
                if turn == 0:
                    for tree in trees:
                        tree.do("make")
                first = turn % 2
                for step, sums in took.items():
                    order = (first, 1 - first, 1 - first, first) if step in TWICE else (first, 1 - first)
                    seconds = [0.0, 0.0]
                    for k in order:
                        seconds[k] += trees[k].do(step)
                    for k, each in enumerate(seconds):
                        sums[k].append(each)
            _say(f"pair {turn + 1} of {runs}: {_pair(took)}")
    return took


def rows(took: dict[str, tuple[list[float], list[float]]], limit: float) -> list[Row]:
    """A row per figure; one that the limit's side of is not proved has no verdict."""
    return [_row(step, ratio(*seconds), seconds, limit) for step, seconds in took.items()]


def _row(step: str, found: Ratio, seconds: tuple[list[float], list[float]], limit: float) -> Row:
    here, there = map(statistics.mean, seconds)
    told = f"{len(seconds[0])} pairs: {here:.2f} s here, {there:.2f} s there, {STEPS[step]}"
    return judged(step, found, told, limit)


def judged(what: str, found: Ratio, told: str, limit: float) -> Row:
    """A ratio's row: with a verdict where its whole interval lies on one side of the limit."""
    proved = found.high <= limit or found.low > limit
    fixture = f"{found}, {told}{'' if proved else f'; whether it keeps {limit:g} is open'}"
    return Row(what, found.mean, "times", fixture, limit if proved else None)


def benchmarked(here: Path, there: Path, names: Sequence[str], runs: int) -> dict[str, tuple[list[float], list[float]]]:
    """By row of these benchmarks: what it cost each time in tree `here` and in tree `there`, of rows that both have."""
    costs: dict[str, tuple[list[float], list[float]]] = {}
    for turn in range(runs):
        for name in names:
            for k in (turn % 2, 1 - turn % 2):
                for what, measured, unit in printed_rows((here, there)[k], name):
                    cost = 1 / measured if measured and unit.endswith("/s") else measured
                    costs.setdefault(what, ([], []))[k].append(cost)
        _say(f"pair {turn + 1} of {runs}")
    return {
        what: both
        for what, both in costs.items()
        if all(len(each) == runs and all(0 < cost < math.inf for cost in each) for each in both)
    }


def printed_rows(root: Path, name: str) -> list[tuple[str, float, str]]:
    """The rows of a benchmark in a tree: what, measured, unit."""
    program = f"import json, sys; sys.path.insert(0, '.'); from tests.bench import {name} as bench; "
    program += "print(json.dumps([(row.what, row.measured, row.unit) for row in bench.rows()]))"
    command = [str(root / ".venv/bin/python"), "-P", "-c", program]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False, env=_environment())
    if done.returncode:
        raise SystemExit(f"{name} in {root} ended with {done.returncode}; why is above")
    return [(what, measured, unit) for what, measured, unit in json.loads(done.stdout.splitlines()[-1])]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


def _pair(took: dict[str, tuple[list[float], list[float]]]) -> str:
    return ", ".join(f"{step} {here[-1]:.2f} / {there[-1]:.2f} s" for step, (here, there) in took.items())


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a figure is proved slower than the limit."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.against",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tree", type=Path, metavar="TREE", help="the other checkout")
    parser.add_argument("--runs", type=int, default=10, help="pairs (default: 10, in under six minutes)")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"the ratio that is allowed (default: {LIMIT})")
    parser.add_argument("--rows", nargs="+", default=(), metavar="BENCHMARK", help="compare these benchmarks' rows")
    options = parser.parse_args(arguments)
    there = options.tree.absolute()
    for root in (HERE, there):
        if not (root / ".venv/bin/python").exists():
            parser.error(f"{root} has no .venv/bin/python: make an environment there, with its packages")
    if options.runs < 1:
        parser.error("--runs is at least 1")
    if options.rows:
        costs = benchmarked(HERE, there, options.rows, options.runs)
        told = f"{options.runs} pairs, each tree's own figure"
        measured = [judged(what, ratio(*both), told, options.limit) for what, both in costs.items()]
    else:
        measured = rows(compared(HERE, there, options.runs), options.limit)
    sys.stdout.write("\n".join([HEADER, *map(line, measured)]) + "\n")
    return int(failed(measured))


if __name__ == "__main__":
    sys.exit(main())
