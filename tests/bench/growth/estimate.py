"""How long the missing runs will take: by what runs of their kind have taken, or else by a timed epoch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from functools import cache
from typing import Final

from tests.bench.growth import training
from tests.bench.growth.jobs import FAMILIES, Job, task_of
from tests.bench.growth.ledger import Ledger
from tests.bench.growth.plan import Slot, rates

TIMED_EPOCHS: Final = 3

TIMES_CONTROL: Final = {"grown": 1.8, "grown-75": 2.5, "grown-careful": 2.5, "direct": 1.4, "static": 1.4}
"""What an arm was measured to take, as a multiple of the control; 1.2 for any other."""


def seconds(slots: Iterable[Slot], ledger: Ledger) -> float:
    """Processor seconds that these runs will take together."""
    per_step = measured(ledger)
    return sum(_of_one(slot, per_step) for slot in slots)


def measured(ledger: Ledger) -> dict[tuple[str, ...], float]:
    """Median processor seconds a step, by (task, arm, size) and by (task, arm)."""
    found: dict[tuple[str, ...], list[float]] = {}
    for row in ledger.rows.values():
        for kind in ((row["task"], row["arm"], row["size"]), (row["task"], row["arm"])):
            found.setdefault(kind, []).append(row["cpu_s"] / row["steps"])
    return {kind: statistics.median(values) for kind, values in found.items()}


def _of_one(slot: Slot, per_step: dict[tuple[str, ...], float]) -> float:
    task = task_of(slot.task, _size(slot))
    steps = (slot.job.steps if slot.job is not None else 0) or task.epochs * task.steps(task.batch_size)
    known = per_step.get((slot.task, slot.arm, slot.size), per_step.get((slot.task, slot.arm)))
    if known is not None:
        return steps * known
    control = per_step.get((slot.task, "control", slot.size)) or timed_step(slot.task, _size(slot))
    return steps * control * TIMES_CONTROL.get(slot.arm, 1.2)


def _size(slot: Slot) -> str:
    """The slot's size, or while that is yet to be chosen the middle one."""
    return FAMILIES[slot.task].sizes[2] if slot.size == "?" else slot.size


@cache
def timed_step(task: str, size: str) -> float:
    """Processor seconds a step of a control run, from the second epoch of a short one on."""
    steps = task_of(task, size).steps(task_of(task, size).batch_size)
    job = Job(task, "control", "constant", 0, "probe", size, rates(task, size)[2], steps=steps)
    once, often = (training.run(_longer(job, epochs * steps))["cpu_s"] for epochs in (1, 1 + TIMED_EPOCHS))
    return float(max(often - once, 0.0)) / (TIMED_EPOCHS * steps)


def _longer(job: Job, steps: int) -> Job:
    return Job(job.task, job.arm, job.schedule, job.seed, job.on, job.size, job.rate, steps=steps)
