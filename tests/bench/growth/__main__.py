"""Does growth pay? Trains what the growth table still lacks, and writes docs/results.md.

    python -m tests.bench.growth                          # everything that is missing, on all cores; hours
    python -m tests.bench.growth --plan                   # what is missing, and how long it takes
    python -m tests.bench.growth --only tab --only doc grown static --schedules wsd --seeds 5
    python -m tests.bench.growth --page                   # the page from the rows that there are
    python -m tests.bench.growth --check 2                # do rows that other code has made come out the same?

Each finished run is a row in docs/results.jsonl at once; a bench that was stopped goes on where it was. Rows whose
configuration or code is another now are told, and run again, unless `--check N` found that N random rows of their arm
come out the same to the last digit (`--keep-stale` lets those of other code hold unchecked).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.bench.growth.check import check
from tests.bench.growth.estimate import seconds
from tests.bench.growth.jobs import FAMILIES, ROOT, code_version
from tests.bench.growth.ledger import Ledger, Row
from tests.bench.growth.page import page
from tests.bench.growth.plan import NEEDS, SCHEDULES, Plan, Scope, make_plan
from tests.bench.growth.verdicts import summary_of
from tests.bench.growth.work import work

ROWS = ROOT / "docs" / "results.jsonl"


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan, train, write; 1 where a run broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="store_true", help="print what is missing and how long it takes")
    parser.add_argument("--page", action="store_true", help="write the page from the rows that there are")
    parser.add_argument(
        "--only", nargs="+", action="append", metavar=("TASK", "ARM"), help="this task, and of it these arms"
    )
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES), help="default: both")
    parser.add_argument("--seeds", type=int, help="at most so many test seeds (default: 20 or 10, by task)")
    parser.add_argument("--epochs", type=int, help="so many instead of each task's own, for a trial of this command")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at a time (default: all cores)")
    parser.add_argument("--check", type=int, metavar="N", help="run N random rows of each arm of other code again")
    parser.add_argument("--keep-stale", action="store_true", help="let rows hold that other code has made")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the rows (default: docs/results.jsonl)")
    chosen = parser.parse_args(arguments)
    scope = scope_of(parser, chosen)
    ledger = Ledger(chosen.rows, code_version(), keep_stale=chosen.keep_stale)
    plan = make_plan(ledger, scope)
    broken: dict[tuple[str, ...], str] = {}
    if chosen.check:
        tell_check(ledger, scope, chosen.check)
    elif not chosen.page:
        tell_plan(ledger, plan, chosen.workers, each=chosen.plan)
        if chosen.plan:
            return 0
        ledger.tidy()
        broken = work(ledger, scope, chosen.workers, _tell)
    whole = make_plan(ledger, Scope(epochs=chosen.epochs))
    output = chosen.rows.with_suffix(".md")
    output.write_text(page(ledger, whole))
    say(f"{output}: {len(ledger.rows)} rows, {len(whole.missing)} of the whole table missing")
    for key, error in broken.items():
        say(f"broke: {' '.join(key).strip()}: {error}")
    return int(bool(broken))


def scope_of(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> Scope:
    """What part of the table was asked for; ends with a line where a name is unknown."""
    arms = dict.fromkeys(FAMILIES, tuple(NEEDS))
    if chosen.only:
        arms = {}
        for task, *named in chosen.only:
            if task not in FAMILIES:
                parser.error(f"there is no task {task}; there are {', '.join(FAMILIES)}")
            unknown = sorted(set(named) - set(NEEDS))
            if unknown:
                parser.error(f"there is no arm {', '.join(unknown)}; there are {', '.join(NEEDS)}")
            arms[task] = (*arms.get(task, ()), *(named or NEEDS))
    return Scope(arms, chosen.schedules, chosen.seeds, chosen.epochs)


def tell_check(ledger: Ledger, scope: Scope, count: int) -> None:
    """Check rows of other code, and say what came of it."""
    found = check(ledger, scope, count, seed=time.time_ns())
    ledger.tidy()
    say(f"{found.checked} rows run again, {found.adopted} adopted as of this code, {len(found.unequal)} differ")
    for line in found.unequal:
        say(f"differs: {line}")


def tell_plan(ledger: Ledger, plan: Plan, workers: int, *, each: bool) -> None:
    """How much is missing and how long that takes; with `each` by task and arm."""
    if ledger.unreadable:
        say(f"{ledger.unreadable} lines of {ledger.path} are cut off or of another form: they are left out")
    if plan.stale:
        say(f"{plan.stale} rows are stale (another configuration or other code): they are run again")
    if each:
        for (schedule, task, arm, on), count in Counter(
            (slot.schedule, slot.task, slot.arm, slot.on) for slot in plan.missing
        ).items():
            waiting = sum(
                slot.job is None
                for slot in plan.missing
                if (slot.schedule, slot.task, slot.arm, slot.on) == (schedule, task, arm, on)
            )
            say(f"  {schedule:7} {task:8} {arm:14} {on:6} {count:4} missing, {waiting} wait for others")
    spent = seconds(plan.missing, ledger)
    say(
        f"{len(plan.missing)} runs are missing, {plan.done} are there: about {_time(spent)} of processor time, "
        f"{_time(spent / workers)} on {workers} {'core' if workers == 1 else 'cores'}"
    )


def _tell(row: Row, missing: int) -> None:
    say(f"{time.strftime('%H:%M:%S')} {missing:5} left  {summary_of(row)}")


def _time(duration_s: float) -> str:
    if duration_s < 90:
        return f"{duration_s:.0f} s"
    return f"{duration_s / 60:.0f} min" if duration_s < 5400 else f"{duration_s / 3600:.1f} h"


if __name__ == "__main__":
    sys.exit(main())
