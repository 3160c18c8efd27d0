"""What the rows say about the two defaults: the schedule of the learning rate, and the lifecycle of a seed.

Each is one default for every task, a person's own included. So what counts is not who wins most tasks, but whether
one choice is never worse than noise in accuracy and in loss, on the tables' unseen seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tests.bench.growth.jobs import FAMILIES
from tests.bench.growth.ledger import Row
from tests.bench.growth.paired import Paired, paired
from tests.bench.growth.plan import SCHEDULES
from tests.bench.growth.verdicts import Table

MEASURES: Final = ("accuracy", "loss")

Choice = Callable[[Sequence[Row], str], tuple[Sequence[Row], Sequence[Row]]]
"""Of a task: the rows of one side and of the other, paired by seed."""


def lines(rows: Sequence[Row]) -> list[str]:
    """The section of the page."""
    choices: dict[str, Choice] = {
        f"wsd against cosine, {arm}": lambda rows, task, arm=arm: _schedules(rows, task, arm)
        for arm in ("control", "grown", "static-equal")
    }
    for schedule in SCHEDULES:
        choices[f"swift against careful, {schedule}"] = lambda rows, task, schedule=schedule: _lifecycles(
            rows, task, schedule
        )
    told = [
        "## Which defaults",
        "",
        "The first against the second over paired seeds: points of accuracy and, after the stroke, nats by which the",
        "loss is lower: positive is better for the first. In bold what lies beyond its interval.",
        "",
        f"| | {' | '.join(FAMILIES)} | worse than noise on |",
        "|---" * (len(FAMILIES) + 2) + "|",
    ]
    for words, choice in choices.items():
        found = {task: [paired(*choice(rows, task), measure) for measure in MEASURES] for task in FAMILIES}
        worse = [
            f"{task} ({', '.join(pair.measure for pair in pairs if pair.worse)})"
            for task, pairs in found.items()
            if any(pair.worse for pair in pairs)
        ]
        cells = [" / ".join(map(_cell, pairs)) if pairs[0].known else "" for pairs in found.values()]
        told.append(f"| {words} | {' | '.join(cells)} | {', '.join(worse)} |")
    return [*told, ""]


def _cell(pair: Paired) -> str:
    return f"**{pair}**" if pair.better or pair.worse else str(pair)


def _schedules(rows: Sequence[Row], task: str, arm: str) -> tuple[list[Row], list[Row]]:
    wsd, cosine = (Table(rows, task, schedule).test(arm) for schedule in ("wsd", "cosine"))
    return wsd, cosine


def _lifecycles(rows: Sequence[Row], task: str, schedule: str) -> tuple[list[Row], list[Row]]:
    table = Table(rows, task, schedule)
    return table.test("grown"), table.test("grown-careful")
