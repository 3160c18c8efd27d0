"""What the rows answer to the questions that decide whether growth pays: yes, no or not yet, and by how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.bench.growth.jobs import FAMILIES
from tests.bench.growth.ledger import Row, matching
from tests.bench.growth.paired import Paired, cost, paired, total
from tests.bench.growth.plan import CUT_SHARE, TUNING_SEEDS, score

NOT_YET: Final = "not yet"
SWEEP_SHARE: Final = 0.3
WIDE_SHARE: Final = 1.1
SAME_FLOPS: Final = 1.02


@dataclass(frozen=True, slots=True)
class Answer:
    """One question under one schedule: the answer, and each task's figures in words."""

    question: str
    verdict: str
    by_task: dict[str, str]


def answers(rows: Sequence[Row], schedule: str) -> list[Answer]:
    """The answers, in the order of the questions."""
    tables = {task: Table(rows, task, schedule) for task in FAMILIES}
    return [question(tables) for question in QUESTIONS]


class Table:
    """The rows of one task under one schedule."""

    def __init__(self, rows: Sequence[Row], task: str, schedule: str) -> None:
        self.task = task
        self.family = FAMILIES[task]
        self.schedule = schedule
        self._rows = [row for row in rows if (row["task"], row["schedule"]) == (task, schedule)]

    def test(self, arm: str, size: str = "") -> list[Row]:
        """The rows of an arm on the test set; of the sweep those of the size that was chosen."""
        if arm in ("sweep", "sweep-equal"):
            size = size or self.chosen_size(arm)
        return matching(self._rows, arm=arm, on="test", size=size or self.family.sizes[0])

    def wide(self, arm: str) -> list[Row]:
        """The same on the host that is big enough."""
        return self.test(arm, self.family.wide)

    def tuning(self, arm: str, size: str = "") -> dict[float, list[Row]]:
        """The rows of an arm on the probe set, by rate; rates that were not tried on every tuning seed are left out."""
        rows = matching(self._rows, arm=arm, on="probe", size=size or self.family.sizes[0])
        by_rate = {rate: [row for row in rows if row["rate"] == rate] for rate in {row["rate"] for row in rows}}
        return {rate: of_rate for rate, of_rate in sorted(by_rate.items()) if len(of_rate) == len(TUNING_SEEDS)}

    def best_rate(self, arm: str, size: str = "") -> tuple[float, list[Row]] | None:
        """The rate that is best on the probe set, with its rows."""
        tried = self.tuning(arm, size)
        return max(tried.items(), key=lambda each: score(each[1], self.family)) if tried else None

    def chosen_size(self, arm: str) -> str:
        """The size of the sweep that is best on the probe set; the host's own while none has been tried."""
        found = {size: best for size in self.family.sizes if (best := self.best_rate(arm, size)) is not None}
        return max(found, key=lambda size: score(found[size][1], self.family), default=self.family.sizes[0])

    def best_static(self) -> str:
        """The arm of the static net that is best on the probe set for what the grown run costs."""
        arms = ["static-equal", "sweep-equal"]
        static, grown = self.best_rate("static"), self.best_rate("grown")
        if static and grown and mean_of(static[1], cost) <= SAME_FLOPS * mean_of(grown[1], total):
            arms.append("static")
        found = {
            arm: score(best[1], self.family)
            for arm in arms
            if (best := self.best_rate(arm, self.chosen_size(arm) if arm == "sweep-equal" else "")) is not None
        }
        return max(found, key=lambda arm: found[arm], default="static-equal")

    def against(self, other: Sequence[Row], one: Sequence[Row] | None = None) -> Paired:
        """Grown against other rows, in the task's own measure."""
        return paired(self.test("grown") if one is None else one, other, self.family.measure)

    def cut(self) -> list[Row]:
        """Grown runs with 75 % of the static net's FLOPs at most: the whole ones where those need no more."""
        static = {row["seed"]: row for row in self.test("static")}
        cut = {}
        for row in (*self.test("grown-75"), *self.test("grown")):
            if row["seed"] in static and total(row) <= CUT_SHARE * cost(static[row["seed"]]):
                cut[row["seed"]] = row
        return [cut[seed] for seed in sorted(cut)]

    def sweep_cost(self) -> float | None:
        """FLOPs of one whole run of each of the five sizes; None until each has been tried."""
        found = [self.best_rate("sweep", size) for size in self.family.sizes]
        return sum(mean_of(each[1], cost) for each in found if each) if all(found) else None


def mean_of(rows: Sequence[Row], of: Callable[[Row], float]) -> float:
    """The mean of something over rows, at least one."""
    return sum(of(row) for row in rows) / len(rows)


def share(one: Sequence[Row], other: float, of: Callable[[Row], float] = total) -> str:
    """`at 24 % of its FLOPs`."""
    return f"at {100 * mean_of(one, of) / other:.0f} % of its FLOPs" if one and other else ""


# ------------------------------------------------------------------------------------------------------- the questions

Tables = dict[str, Table]


def _counted(
    question: str, judged: dict[str, tuple[bool | None, str]], *, least: int, rest: dict[str, bool | None] | None = None
) -> Answer:
    """Yes where it holds on `least` tasks, and `rest` on the others; not yet while figures are missing."""
    held = sum(1 for holds, _ in judged.values() if holds)
    open_ = sum(1 for holds, _ in judged.values() if holds is None)
    failing = [task for task, holds in (rest or {}).items() if holds is False and not judged[task][0]]
    pending = any(holds is None for holds in (rest or {}).values())
    if held >= least and not failing and not pending:
        verdict = "yes"
    elif held + open_ < least or failing:
        verdict = "no"
    else:
        verdict = NOT_YET
    known = len(judged) - open_
    words = f"{verdict}: on {held} of {known} tasks with figures, {least} of {len(judged)} asked"
    if failing:
        words += f"; worse than noise on {', '.join(failing)}"
    return Answer(question, words, {task: text for task, (_, text) in judged.items()})


def beats(tables: Tables, opponent: Callable[[Table], str], question: str) -> Answer:
    """Grown beats the opponent in accuracy or loss on four tasks, and is within noise or better on the others."""
    judged: dict[str, tuple[bool | None, str]] = {}
    rest: dict[str, bool | None] = {}
    for task, table in tables.items():
        arm = opponent(table)
        other = table.test(arm)
        by = {measure: paired(table.test("grown"), other, measure) for measure in ("accuracy", "loss")}
        own = by[table.family.measure]
        rest[task] = (own.better or own.within_noise) if own.known else None
        judged[task] = (
            any(each.better for each in by.values()) if own.known else None,
            f"accuracy {by['accuracy']}, loss {by['loss']} against {arm} (n = {own.pairs})",
        )
    return _counted(question, judged, least=4, rest=rest)


def final_size(tables: Tables) -> Answer:
    """The first question, against the net of the same structure."""
    return beats(
        tables,
        lambda _table: "static-equal",
        "At equal training FLOPs grown beats the static net of its final size on four tasks or more, and is within "
        "noise or better on the others",
    )


def any_static(tables: Tables) -> Answer:
    """The same against the best static net that could be found."""
    return beats(
        tables,
        Table.best_static,
        "The same against the best static net of those FLOPs (final size, its cut, or one of five sizes; chosen on the "
        "probe set)",
    )


def cheaper(tables: Tables) -> Answer:
    """Grown with three quarters of the FLOPs."""
    judged: dict[str, tuple[bool | None, str]] = {}
    for task, table in tables.items():
        cut, static = table.cut(), table.test("static")
        pair = table.against(static, cut)
        holds = pair.better or pair.within_noise if pair.known else None
        of_static = share(cut, mean_of(static, cost)) if static else ""
        judged[task] = (holds, f"{pair} {of_static} (n = {pair.pairs})")
    return _counted(
        "Grown with at most 75 % of the static net's FLOPs is within noise of it, or better, on four tasks or more",
        judged,
        least=4,
    )


def lifecycle(tables: Tables) -> Answer:
    """Insert, then prove, against inserting."""
    judged: dict[str, tuple[bool | None, str]] = {}
    for task, table in tables.items():
        pair = table.against(table.test("direct"))
        holds: bool | None = None
        if pair.known:
            holds = pair.better if task == "tabn" else pair.better or pair.within_noise
        judged[task] = (holds, f"{pair} (n = {pair.pairs})" + (", better is asked" if task == "tabn" else ""))
    return _counted(
        "The lifecycle is within noise of direct insertion at the same times, or better, on every task, and better on "
        "tabn, where seeds overfit",
        judged,
        least=len(judged),
    )


def one_run(tables: Tables) -> Answer:
    """One grown run against choosing among five sizes."""
    judged: dict[str, tuple[bool | None, str]] = {}
    for task, table in tables.items():
        grown, best, whole = table.test("grown"), table.test("sweep"), table.sweep_cost()
        pair = table.against(best)
        if not pair.known or whole is None:
            judged[task] = (None, f"{pair} (n = {pair.pairs})")
            continue
        cheap = mean_of(grown, total) <= SWEEP_SHARE * whole
        text = f"{pair} against size {table.chosen_size('sweep')}, {share(grown, whole)} (n = {pair.pairs})"
        judged[task] = (cheap and (pair.better or pair.within_noise), text)
    told = _counted(
        "One grown run is within noise of the best of five static sizes at 30 % or less of the sweep's FLOPs on three "
        "tasks or more, and does not grow on tabn",
        judged,
        least=3,
    )
    on_noise = tables["tabn"].test("grown")
    if not on_noise:
        return Answer(told.question, told.verdict + "; no run of tabn yet", told.by_task)
    grew = sum(bool(row["structure"]) for row in on_noise)
    verdict = told.verdict.replace("yes", "no", 1) if grew and told.verdict.startswith("yes") else told.verdict
    return Answer(told.question, f"{verdict}; tabn grew in {grew} of {len(on_noise)} runs", told.by_task)


def harmless(tables: Tables) -> Answer:
    """A host that is big enough loses nothing."""
    judged: dict[str, tuple[bool | None, str]] = {}
    for task, table in tables.items():
        grown, control = table.wide("grown"), table.wide("control")
        pair = table.against(control, grown)
        if not pair.known:
            judged[task] = (None, f"{pair} (n = {pair.pairs})")
            continue
        theirs = {row["seed"]: row for row in control}
        undone = [row for row in grown if not row["structure"] and row["seed"] in theirs]
        same = sum(row["loss"] == theirs[row["seed"]]["loss"] for row in undone)
        ratio = mean_of(grown, total) / mean_of(control, cost)
        holds = (pair.better or pair.within_noise) and same == len(undone) and ratio <= WIDE_SHARE
        text = f"{pair}; nothing kept in {len(undone)} of {len(grown)} runs, {same} of these bit-identical"
        judged[task] = (holds, f"{text}; {100 * (ratio - 1):+.0f} % FLOPs")
    return _counted(
        "A host that is big enough loses nothing (bit-identical where nothing was kept), at 10 % more FLOPs or less",
        judged,
        least=len(judged),
    )


QUESTIONS: Final[tuple[Callable[[Tables], Answer], ...]] = (
    final_size,
    any_static,
    cheaper,
    lifecycle,
    one_run,
    harmless,
)


def summary_of(row: dict[str, Any]) -> str:
    """A finished row in one line."""
    kept = f", {len(row['structure'])} of {len(row['germinations'])} seeds kept" if row["germinations"] else ""
    where = f"{row['task']} {row['arm']} {row['size']} {row['schedule']} seed {row['seed']} on {row['on']}"
    return f"{where}: {100 * row['accuracy']:.2f} %, loss {row['loss']:.4f}{kept}, {row['cpu_s']:.1f} s"
