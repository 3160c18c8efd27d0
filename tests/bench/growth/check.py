"""Do rows still hold that other code has made? Some of them are run again, and every figure must come out the same.

A row says by which code it was made. Where that is not the code of now, nothing says that it would come out otherwise:
most changes move no result. So `--check N` runs N random rows of each arm again. Where all of an arm come out equal in
every figure, the arm's other rows count as of this code as well, and say so (`adopted`); where one does not, it is
named, and the arm's rows are run anew.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tests.bench.growth import training
from tests.bench.growth.jobs import FAMILIES, Job, digest_of
from tests.bench.growth.ledger import Ledger, Row
from tests.bench.growth.plan import Scope, make_plan

EARLIER: Final = (
    {
        "axes": ["depth", "width"],
        "growth_budget_factor": 4.0,
        "growth_data_share": None,
        "seeds": {"rules": None, "proof_epochs": 3, "proof_patience": None},
    },
)
"""Defaults of earlier configurations, None for a setting that there was not: by them it is told whether a row that does
not say its job was made for the same one as today's."""

Group = tuple[str, str, str, str]
"""Task, schedule, arm, and the set that its networks are evaluated on."""

FIGURES: Final = ("status", "accuracy", "loss", "params_host", "params", "epochs", "steps", "flops", "structure")


@dataclass(slots=True)
class Found:
    """What a check found: rows adopted, and of each row that came out otherwise its place with the first figure."""

    checked: int = 0
    adopted: int = 0
    unequal: list[str] = field(default_factory=list)


def check(ledger: Ledger, scope: Scope, count: int, seed: int, run: Callable[[Job], Row] = training.run) -> Found:
    """Check up to `count` rows of each task's and schedule's arm, and adopt the rest where all are equal.

    Of the arms that the scope names alone. What is made from other rows can be looked at only when those hold; so it
    goes round until nothing more is found.
    """
    found, drawn, differing = Found(), random.Random(seed), set[Group]()
    while True:
        groups: dict[Group, list[Job]] = {}
        for job in make_plan(ledger, scope).ready:
            row = ledger.rows.get(job.key)
            group: Group = (job.task, job.schedule, job.arm, job.on)
            if row is not None and group not in differing and _asked(job, scope) and _same_job(row, job):
                groups.setdefault(group, []).append(job)
        if not groups:
            return found
        for group, jobs in groups.items():
            if not _check_group(ledger, drawn.sample(jobs, min(count, len(jobs))), jobs, found, run):
                differing.add(group)


def _asked(job: Job, scope: Scope) -> bool:
    """Whether the scope names the job's arm, and not only arms that are made from it."""
    arms = scope.arms[job.task]
    return job.arm in arms or (job.size == FAMILIES[job.task].wide and "wide" in arms)


def _check_group(ledger: Ledger, some: list[Job], jobs: list[Job], found: Found, run: Callable[[Job], Row]) -> bool:
    """Run some again; where all are equal the group's rows count as of this code."""
    equal = True
    for job in some:
        found.checked += 1
        if what := difference(ledger.rows[job.key], run(job)):
            equal = False
            found.unequal.append(f"{' '.join(job.key).strip()}: {what}")
    for job in jobs if equal else []:
        row = ledger.rows[job.key]
        adopted = {"from": row.get("adopted", {}).get("from", row["code"]), "checked": len(some), "of": len(jobs)}
        ledger.append(row | {"config": job.digest(), "job": job.what(), "code": ledger.code, "adopted": adopted})
        found.adopted += 1
    return equal


def difference(then: Row, now: Row) -> str:
    """The first figure that is another one; empty where all are equal."""
    for name in FIGURES:
        if name in then and _plain(then[name]) != _plain(now[name]):
            return f"{name} is {now[name]}, and was {then[name]}"
    return ""


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, dict) else value


def _same_job(row: Row, job: Job) -> bool:
    """Whether the row was made for the same job, whatever the defaults were."""
    if "job" in row:
        return bool(row["job"] == job.what())
    if job.steps and (row["epochs"], row["steps"] // row["epochs"]) != job.shape():
        return False
    return any(row["config"] == _digest_then(job, defaults) for defaults in EARLIER)


def _digest_then(job: Job, defaults: dict[str, Any]) -> str:
    """The job's digest under earlier defaults, as it was made before a row said its job."""
    config = json.loads(job.config().to_json())
    _put_back(config, defaults)
    return digest_of([asdict(job), config])


def _put_back(values: dict[str, Any], defaults: dict[str, Any]) -> None:
    for name, value in defaults.items():
        if isinstance(value, dict):
            _put_back(values[name], value)
        elif value is None:
            del values[name]
        else:
            values[name] = value
