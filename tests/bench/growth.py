"""Does growth pay? Trains every arm on every task over many seeds and writes docs/results.md.

    python -m tests.bench.growth                        # all tasks, 10 seeds: about 40 minutes on two cores
    python -m tests.bench.growth --tasks digits --seeds 3 --output /tmp/results.md

Arms of one seed share host weights, data order and epochs: `control` never grows; `grown` is the default run; `direct`
inserts the seeds that the policy asks for at once, without the lifecycle; `static` is a host that has the grown run's
final parameter count from the start. The test set is looked at once, when a run ends. Runs use the log in memory: the
decisions are those of the decider, which calls the same function.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress
from scipy.special import stdtrit

from esper.kasmina.settings import SeedSettings
from esper.leyline.objects import ObjectStore
from esper.testing import REAL_CLOCK, MemoryLog
from esper.tolaria.config import RunConfig

DEFAULT_TASKS = ("digits", "chars", "spirals", "digits-wide", "spirals-wide")
BIG_ENOUGH = ("digits-wide", "spirals-wide")
OUTPUT = Path(__file__).parents[2] / "docs" / "results.md"


@dataclass(frozen=True, slots=True)
class Job:
    """One training run."""

    task: str
    arm: str
    seed: int
    params: int = 0
    """For the static arm: the grown run's final parameter count."""

    def config(self) -> RunConfig:
        task = f"{self.task}@{self.params}" if self.arm == "static" else self.task
        grows = self.arm in ("grown", "direct")
        return RunConfig(
            task=task,
            seed=self.seed,
            policy="heuristic" if grows else "none",
            decision_timeout_s=None,
            seeds=SeedSettings(lifecycle="direct" if self.arm == "direct" else "full"),
        )


def run(job: Job) -> dict[str, Any]:
    """Train one arm and return what it came to."""
    from esper.tolaria.outside import Outside
    from esper.tolaria.tasks import load_task
    from esper.tolaria.train import train
    from esper.tolaria.world import LiveWorld

    config = job.config()
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        objects = ObjectStore(Path(folder))
        result = train(
            config,
            load_task(config.task),
            LiveWorld(Outside(MemoryLog(objects=objects), REAL_CLOCK, objects)),
            run_id=f"{job.task}-{job.arm}-{job.seed}"[:20],
        )
    return {
        "task": job.task,
        "arm": job.arm,
        "seed": job.seed,
        "accuracy": result.val_accuracy,
        "loss": result.test_loss,
        "params_host": result.params_host,
        "params": result.params_final,
        "flops": sum(result.flops.values()),
        "cpu_s": time.process_time() - began,
        "fates": result.fates,
        **result.seeds,
    }


def measure(tasks: Sequence[str], seeds: Sequence[int], workers: int) -> list[dict[str, Any]]:
    """Run every arm of every task; the static arm of a seed starts when its grown arm is done."""
    jobs = [Job(task, arm, seed) for task in tasks for seed in seeds for arm in arms(task) if arm != "static"]
    total = len(jobs) + sum(len(seeds) for task in tasks if "static" in arms(task))
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool, Progress(disable=not sys.stderr.isatty()) as bar:
        progress = bar.add_task("training", total=total)
        pending = {pool.submit(run, job) for job in jobs}
        while pending:
            done = next(as_completed(pending))
            pending.remove(done)
            row = done.result()
            rows.append(row)
            bar.advance(progress)
            if row["arm"] == "grown" and "static" in arms(row["task"]):
                pending.add(pool.submit(run, Job(row["task"], "static", row["seed"], row["params"])))
    order = {arm: place for place, arm in enumerate(("control", "grown", "direct", "static"))}
    return sorted(rows, key=lambda row: (list(tasks).index(row["task"]), row["seed"], order[row["arm"]]))


def arms(task: str) -> tuple[str, ...]:
    """What is compared on a task: a host that is big enough is only asked whether growth does harm."""
    return ("control", "grown") if task in BIG_ENOUGH else ("control", "grown", "direct", "static")


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval of paired differences (Student's t)."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, float("nan")
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return mean, float(stdtrit(len(differences) - 1, 0.975)) * error


def report(rows: Sequence[dict[str, Any]], command: str) -> str:
    """The page: one table a task, and below each what became of the seeds."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    seeds = sorted({row["seed"] for row in rows})
    head = [
        "# Does growth pay?",
        "",
        f"Made by `{command}`; every row of every run is in `results.jsonl` beside this page.",
        "",
        f"Seeds {seeds[0]} to {seeds[-1]}, one thread each, two runs at a time.",
        "Hosts, rates and rules were chosen on other seeds and an earlier split. No test sample below was a test or",
        "probe sample of that one (digits: former training images; chars: former training files; spirals: new points).",
        "*Gain* and *change* are against the control of the same seed, ± is the 95 % interval of their mean,",
        "*worst* is the worst single pair. Accuracy in points on the test set, which no gate and no policy",
        "looks at; loss in nats. FLOPs count training, side passes and probes; seconds are processor time of one core.",
        "",
    ]
    return "\n".join(head + [line for task in tasks for line in section(task, [r for r in rows if r["task"] == task])])


def section(task: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """One task."""
    control = {row["seed"]: row for row in rows if row["arm"] == "control"}
    lines = [
        f"## {task}",
        "",
        "| arm | accuracy % | gain | worst | test loss | change | worst | parameters | GFLOPs | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms(task):
        own = [row for row in rows if row["arm"] == arm]
        gains = [100 * (row["accuracy"] - control[row["seed"]]["accuracy"]) for row in own]
        drops = [row["loss"] - control[row["seed"]]["loss"] for row in own]
        paired = ("",) * 4
        if arm != "control":
            paired = (signed(gains), f"{min(gains):+.2f}", signed(drops, 3), f"{max(drops):+.3f}")
        lines.append(
            f"| {arm} | {100 * mean(own, 'accuracy'):.2f} | {paired[0]} | {paired[1]} | {mean(own, 'loss'):.4f} "
            f"| {paired[2]} | {paired[3]} | {mean(own, 'params'):,.0f} | {mean(own, 'flops') / 1e9:,.2f} "
            f"| {mean(own, 'cpu_s'):.1f} |"
        )
    return [*lines, "", *fates([row for row in rows if row["arm"] == "grown"]), ""]


def fates(grown: Sequence[dict[str, Any]]) -> list[str]:
    """What became of the seeds of the grown arm."""
    germinated, fossilized, culled = (
        sum(row[word] for row in grown) for word in ("germinated", "fossilized", "culled")
    )
    if not germinated:
        return [f"No seed germinated in {len(grown)} runs."]
    kept = Counter(
        f"{slot} {fate['blueprint']}"
        for row in grown
        for slot, fate in row["fates"].items()
        if fate["stage"] == "FOSSILIZED"
    )
    share = 100 * fossilized / germinated
    counts = ", ".join(f"{what} in {count}" for what, count in sorted(kept.items(), key=lambda item: (-item[1], item)))
    return [
        f"Seeds: {germinated} germinated, {fossilized} fossilised ({share:.0f} %), {culled} culled.",
        f"Fossils by slot, blueprint and runs: {counts or 'none'}.",
    ]


def signed(differences: Sequence[float], digits: int = 2) -> str:
    """`+1.23 ± 0.45`."""
    middle, half = interval(differences)
    return f"{middle:+.{digits}f} ± {half:.{digits}f}"


def mean(rows: Iterable[dict[str, Any]], field: str) -> float:
    """The mean of one column."""
    return statistics.fmean(row[field] for row in rows)


def main(arguments: Sequence[str] | None = None, write: Callable[[str], object] = print) -> None:
    """Parse the command line, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(DEFAULT_TASKS), help="which tasks (default: all five)")
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds (default: 10)")
    parser.add_argument("--first-seed", type=int, default=100, help="the first of them (default: 100)")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the page (default: docs/results.md)")
    chosen = parser.parse_args(arguments)
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    rows = measure(chosen.tasks, seeds, chosen.workers)
    chosen.output.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen.output.write_text(report(rows, "python -m tests.bench.growth"))
    write(f"{chosen.output}: {len(rows)} runs")


if __name__ == "__main__":
    main()
