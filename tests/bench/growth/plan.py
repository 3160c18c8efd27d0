"""Which runs the table needs, in which order, and which of them are still to be trained.

Rates are chosen on the probe set with the tuning seeds (0 to 2), everything else is measured on other seeds (from 100
on). What a job looks like can depend on other rows: the static net has the grown run's structure, its cut the grown
run's FLOPs. Such a job waits; the plan is made anew whenever a row is finished.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from esper.tolaria.structure import Piece
from tests.bench.growth.jobs import FAMILIES, Family, Germination, Job, task_of
from tests.bench.growth.ledger import Ledger, Row
from tests.bench.growth.paired import cost, total

SCHEDULES: Final = ("wsd", "cosine")
TUNING_SEEDS: Final = range(3)
FIRST_TEST_SEED: Final = 100
RATE_FACTORS: Final = (0.16, 0.4, 1.0, 2.5, 6.25)
"""Times the task's own rate: the five that each arm may choose from."""
FIRST_TRIED: Final = 3
"""The middle ones, which are tried in any case; the one beyond is tried where the best of those tried is at an edge."""

CUT_SHARE: Final = 0.75
LONGEST: Final = 10
"""A static net that is given a grown run's FLOPs trains at most so many times as long as the task says."""

NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "control": (),
    "grown": (),
    "grown-careful": ("grown",),
    "direct": ("grown",),
    "static": ("grown",),
    "static-equal": ("static",),
    "grown-75": ("static",),
    "sweep": (),
    "sweep-equal": ("grown", "sweep"),
    "wide": (),
}
"""The arms, and those whose rows an arm is made from. `wide` is control and grown on a host that is big enough."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A row that is missing: what is known of it before its job is."""

    task: str
    arm: str
    schedule: str
    size: str
    on: Literal["probe", "test"]
    job: Job | None = None


@dataclass(slots=True)
class Plan:
    """`missing` has every row that is still to be trained, in order; those with a job can begin now."""

    missing: list[Slot] = field(default_factory=list)
    done: int = 0
    stale: int = 0

    @property
    def ready(self) -> Iterator[Job]:
        """The jobs that can begin."""
        return (slot.job for slot in self.missing if slot.job is not None)


@dataclass(frozen=True, slots=True)
class Scope:
    """What part of the table is asked for: arms by task, schedules, and how many test seeds at most."""

    arms: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict.fromkeys(FAMILIES, tuple(NEEDS)))
    schedules: Sequence[str] = SCHEDULES
    seeds: int | None = None
    epochs: int | None = None
    """So many instead of the task's own, for a trial of the command."""

    def wanted(self, task: str) -> set[str]:
        """The task's arms with all that they need."""
        found: set[str] = set()
        waiting = list(self.arms.get(task, ()))
        while waiting:
            arm = waiting.pop()
            if arm not in found:
                found.add(arm)
                waiting += NEEDS[arm]
        return found

    def test_seeds(self, task: str) -> range:
        """The seeds of the table, disjoint from the tuning seeds."""
        count = FAMILIES[task].seeds if self.seeds is None else min(self.seeds, FAMILIES[task].seeds)
        return range(FIRST_TEST_SEED, FIRST_TEST_SEED + count)


def make_plan(ledger: Ledger, scope: Scope) -> Plan:
    """What is missing of this part of the table."""
    plan = Plan()
    for schedule in scope.schedules:
        for task in FAMILIES:
            if task in scope.arms:
                _Table(ledger, plan, task, schedule, scope).fill()
    return plan


def rates(task: str, size: str) -> list[float]:
    """The five rates that may be tried on this task with a host of this size."""
    known = size if size == FAMILIES[task].wide else FAMILIES[task].sizes[0]
    return [float(f"{factor * task_of(task, known).learning_rate:.3g}") for factor in RATE_FACTORS]


def steps_per_epoch(task: str) -> int:
    """Optimiser steps in an epoch, the same for a host of any size."""
    known = task_of(task, FAMILIES[task].sizes[0])
    return known.steps(known.batch_size)


def score(rows: Iterable[Row], family: Family) -> float:
    """What rates and sizes are chosen by: the mean accuracy, or loss with its sign turned; a run that broke is last."""
    values = [row["accuracy"] if family.measure == "accuracy" else -row["loss"] for row in rows]
    return statistics.fmean(values) if values and all(math.isfinite(value) for value in values) else -math.inf


def scripted(recorded: Sequence[Any]) -> tuple[Germination, ...]:
    """Germinations, as a row has them, as a script: of several at one slot the first."""
    first = {piece["seed_id"]: (epoch, Piece.from_dict(piece)) for epoch, piece in reversed(recorded)}
    return tuple(sorted(first.values(), key=lambda germination: germination[0]))


def equal_steps(grown: Row, static: Row, full: int) -> int:
    """The optimiser steps that the static net can take for what the grown run has cost."""
    return max(1, min(LONGEST * full, int(total(grown) * static["steps"] / static["flops"]["training"])))


def _none(_seed: int) -> dict[str, Any]:
    """Nothing about the job is changed."""
    return {}


class _Table:
    """One task under one schedule: puts what is missing into the plan, and knows what was chosen."""

    def __init__(self, ledger: Ledger, plan: Plan, task: str, schedule: str, scope: Scope) -> None:
        self.ledger = ledger
        self.plan = plan
        self.task = task
        self.schedule = schedule
        self.family = FAMILIES[task]
        self.host = self.family.sizes[0]
        self.wanted = scope.wanted(task)
        self.seeds = scope.test_seeds(task)
        self.steps = 0 if scope.epochs is None else scope.epochs * steps_per_epoch(task)

    def fill(self) -> None:
        """Tuning first, then the table seed by seed."""

        def planted_of(seed: int) -> dict[str, Any] | None:
            return self.static_of(self.tuning("grown", seed, rate))

        rate: dict[str, float | None] = {}
        for arm, changes in (("control", _none), ("grown", _none), ("static", planted_of)):
            if arm in self.wanted:
                rate[arm] = self.tuned(arm, self.host, changes)
        sweep = self.swept() if "sweep" in self.wanted else {}
        equal = self.swept_equally(sweep, rate) if "sweep-equal" in self.wanted else None
        if "static-equal" in self.wanted:
            for seed in TUNING_SEEDS:
                self.equal("probe", seed, self.tuning("grown", seed, rate), self.tuning("static", seed, rate), rate)
        best = self.best(sweep)
        for seed in self.seeds:
            self.seed(seed, rate, sweep, best, equal)
        if "wide" in self.wanted:
            self.wide()

    def wide(self) -> None:
        """Control and grown on the host that is big enough, at the rate that is best for the control."""
        rate = self.tuned("control", self.family.wide, _none)
        for seed in self.seeds:
            for arm in ("control", "grown"):
                self.add(arm, seed, "test", self.family.wide, rate)

    def seed(
        self,
        seed: int,
        rate: dict[str, float | None],
        sweep: dict[str, float | None],
        best: str | None,
        equal: str | None,
    ) -> None:
        """Every arm of one test seed."""
        if "control" in self.wanted:
            self.add("control", seed, "test", self.host, rate["control"])
        grown = self.add("grown", seed, "test", self.host, rate["grown"]) if "grown" in self.wanted else None
        if "direct" in self.wanted:
            what = None if grown is None else {"script": scripted(grown["germinations"])}
            self.add("direct", seed, "test", self.host, rate["grown"], what)
        if "static" in self.wanted:
            static = self.add("static", seed, "test", self.host, rate["static"], self.static_of(grown))
            if "static-equal" in self.wanted:
                self.equal("test", seed, grown, static, rate)
            if "grown-75" in self.wanted:
                self.cut(seed, grown, static, rate)
        if "sweep" in self.wanted:
            self.add("sweep", seed, "test", best or "?", sweep.get(best or ""), {})
        if "sweep-equal" in self.wanted:
            known = None if equal is None or grown is None else self.sweep_steps(equal, sweep, grown)
            self.add("sweep-equal", seed, "test", equal or "?", sweep.get(equal or ""), known)
        if "grown-careful" in self.wanted:
            self.add("grown-careful", seed, "test", self.host, rate["grown"])

    # ------------------------------------------------------------------------------------------------- jobs and rows

    def add(
        self,
        arm: str,
        seed: int,
        on: Literal["probe", "test"],
        size: str,
        rate: float | None,
        changes: dict[str, Any] | None = {},  # noqa: B006 (never changed)
    ) -> Row | None:
        """The row of this run, if it is there; otherwise it is missing, and waits where rate or `changes` are None."""
        job = None
        if rate is not None and changes is not None:
            job = replace(Job(self.task, arm, self.schedule, seed, on, size, rate, self.steps), **changes)
            row = self.ledger.find(job)
            if row is not None:
                self.plan.done += 1
                return row
            self.plan.stale += self.ledger.is_stale(job)
        self.plan.missing.append(Slot(self.task, arm, self.schedule, size, on, job))
        return None

    def tuned(self, arm: str, size: str, changes: Callable[[int], dict[str, Any] | None]) -> float | None:
        """The best rate on the probe set over the tuning seeds; None until all that it takes have been tried.

        The middle rates are tried first, and the one beyond while the best of all is at an edge.
        """
        ladder = rates(self.task, size)
        first = (len(ladder) - FIRST_TRIED) // 2
        waiting, scores = ladder[first : first + FIRST_TRIED], dict[float, float]()
        while waiting:
            found = {
                rate: [self.add(arm, seed, "probe", size, rate, changes(seed)) for seed in TUNING_SEEDS]
                for rate in waiting
            }
            whole = {rate: [row for row in rows if row is not None] for rate, rows in found.items()}
            if any(len(rows) < len(TUNING_SEEDS) for rows in whole.values()):
                return None
            scores |= {rate: score(rows, self.family) for rate, rows in whole.items()}
            at = ladder.index(max(scores, key=lambda rate: scores[rate]))
            waiting = [rate for rate in ladder[max(0, at - 1) : at + 2] if rate not in scores]
        return ladder[at]

    def tuning(self, arm: str, seed: int, rate: dict[str, float | None], size: str = "") -> Row | None:
        """The tuning row of this arm and seed at the rate that was chosen."""
        chosen = rate.get(arm)
        key = (self.task, arm, self.schedule, str(seed), "probe", size or self.host, repr(chosen))
        return self.ledger.rows.get(key)

    def static_of(self, grown: Row | None) -> dict[str, Any] | None:
        """The static net of what the grown run came to: the same modules from the first step on."""
        return None if grown is None else {"structure": tuple(Piece.from_dict(piece) for piece in grown["structure"])}

    def full_steps(self) -> int:
        """The optimiser steps of the task as it is, which are the same for a host of any size."""
        return self.steps or task_of(self.task, self.host).epochs * steps_per_epoch(self.task)

    def equal(
        self,
        on: Literal["probe", "test"],
        seed: int,
        grown: Row | None,
        static: Row | None,
        rate: dict[str, float | None],
    ) -> Row | None:
        """The static net with the FLOPs of the grown run, and a schedule of that length."""
        changes = self.static_of(grown)
        if changes is not None and static is not None and grown is not None:
            changes["steps"] = equal_steps(grown, static, self.full_steps())
        return self.add("static-equal", seed, on, self.host, rate["static"], None if static is None else changes)

    def cut(self, seed: int, grown: Row | None, static: Row | None, rate: dict[str, float | None]) -> None:
        """A grown run with 75 % of the static net's FLOPs; none where the whole one needs no more."""
        if grown is None or static is None:
            self.add("grown-75", seed, "test", self.host, rate["grown"], None)
            return
        budget = CUT_SHARE * cost(static)
        if total(grown) > budget:
            steps = max(1, int(grown["steps"] * budget / total(grown)))
            self.add("grown-75", seed, "test", self.host, rate["grown"], {"steps": steps, "budget": budget})

    # ------------------------------------------------------------------------------------------------------ the sweep

    def swept(self) -> dict[str, float | None]:
        """The rate of each of the five sizes."""
        return {size: self.tuned("sweep", size, _none) for size in self.family.sizes}

    def best(self, sweep: dict[str, float | None]) -> str | None:
        """The size that is best on the probe set, trained as long as the task says."""
        rows = {
            size: [self.tuning("sweep", seed, {"sweep": rate}, size) for seed in TUNING_SEEDS]
            for size, rate in sweep.items()
        }
        return self._best(rows)

    def swept_equally(self, sweep: dict[str, float | None], rate: dict[str, float | None]) -> str | None:
        """The size that is best on the probe set where each has the grown run's FLOPs."""
        rows: dict[str, list[Row | None]] = {size: [] for size in sweep}
        for size, of_size in sweep.items():
            for seed in TUNING_SEEDS:
                grown = self.tuning("grown", seed, rate)
                changes = None if grown is None or of_size is None else self.sweep_steps(size, sweep, grown)
                rows[size].append(self.add("sweep-equal", seed, "probe", size, of_size, changes))
        return self._best(rows)

    def sweep_steps(self, size: str, sweep: dict[str, float | None], grown: Row) -> dict[str, Any] | None:
        """How long a static net of this size trains for the grown run's FLOPs."""
        static = self.tuning("sweep", TUNING_SEEDS[0], {"sweep": sweep[size]}, size)
        return None if static is None else {"steps": equal_steps(grown, static, self.full_steps())}

    def _best(self, found: dict[str, list[Row | None]]) -> str | None:
        whole = {size: [row for row in rows if row is not None] for size, rows in found.items()}
        if not whole or any(len(rows) < len(TUNING_SEEDS) for rows in whole.values()):
            return None
        return max(whole, key=lambda size: score(whole[size], self.family))
