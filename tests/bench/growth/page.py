"""docs/results.md: what is missing, the answers, and each task's tables; made from whatever rows there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from tests.bench.growth import defaults
from tests.bench.growth.jobs import FAMILIES
from tests.bench.growth.ledger import Ledger, Row
from tests.bench.growth.paired import mean, paired
from tests.bench.growth.plan import RATE_FACTORS, SCHEDULES, Plan
from tests.bench.growth.verdicts import Table, answers

COMMAND: Final = "python -m tests.bench.growth"

WORDS: Final = {
    "tab": "a generated table, 20 columns, four classes in 32 clusters; a perceptron of two hidden layers of 8",
    "tabn": "500 noisy rows of such a table, where a larger network is a worse one; the same perceptron",
    "m1d_mlp": "mnist1d, signals of 40 samples, ten classes; a perceptron of two hidden layers of 16",
    "digits": "scikit-learn's digits; a stem of 4 channels without a block behind it",
    "m1d_cnn": "mnist1d; three convolutions of 8 channels",
    "doc": "the next character of Python's documentation; a transformer of one block, width 24",
    "chars": "the next character of the standard library's source; a transformer of one block, width 32",
}

ARMS: Final = (
    ("control", "the task's own small host; it never grows"),
    ("grown", "`esper run --lifecycle swift`: seeds are inserted, then proved or rewound; else every default"),
    ("grown-careful", "the careful lifecycle: a seed passes stages and gates before it counts"),
    ("direct", "the grown run's seeds, inserted after the same epochs and never judged"),
    (
        "static",
        "the grown run's final structure from its first step on; its modules begin at zero output",
    ),
    (
        "static-equal",
        "that net with the FLOPs that the grown run has cost, or 3 % fewer at most: fewer steps or more, own schedule",
    ),
    ("sweep-equal", "the best of five static sizes, each with the grown run's FLOPs"),
    ("sweep", "the best of five static sizes, each trained as long as the task says"),
    ("grown-75", "growth with fewer steps, so that all of it costs at most 75 % of the static net"),
)

COLUMNS: Final = (
    "arm",
    "n",
    "accuracy %",
    "grown is better by",
    "worst",
    "loss",
    "grown is lower by",
    "worst",
    "parameters",
    "MFLOPs: steps",
    "side pass",
    "probes",
    "evidence",
    "of these rewound",
    "seconds",
)

PURPOSES: Final = ("training", "side_pass", "probe", "evidence")


def page(ledger: Ledger, plan: Plan) -> str:
    """The whole page as Markdown."""
    rows = list(ledger.rows.values())
    lines = [*_head(), *_missing(ledger, plan), *_summary(rows), *defaults.lines(rows)]
    for task in FAMILIES:
        lines += _task(rows, task, ledger.code)
    return "\n".join(lines).rstrip() + "\n"


HEAD: Final = """\
# Does growth pay?

Made by `{command}`; every row of every run is in `results.jsonl` beside this page.

Esper lets a network grow while it trains. This page asks what that buys against what a person would do instead: train a
network that has its final size from the start, for the same amount of computing. That a grown net beats the small one
that it grew from says nothing, and is not counted.

- **Equal FLOPs.** FLOPs are counted by torch. A grown run pays for everything: steps, side passes, probes, evidence and
  what was rewound. A static net pays for its steps alone, because nobody needs probes to train one.
- **Chosen beforehand.** Each arm has its own learning rate, the best of five ({factors} times the
  task's) on the probe set over seeds 0 to 2: the middle three are tried, and the one beyond while the best is at an
  edge. Sizes likewise. `grown-careful`, `direct`, `static-equal` and `grown-75` have the rate of the arm that
  they are made from. Tasks with classes choose by accuracy, text by loss. The table's seeds begin at 100, and the test
  set is looked at once, when a run ends.
- **Both schedules for every arm**: `wsd` (warm-up, constant, then linear to 0 over the last fifth) and `cosine`.
- **Paired.** Runs of one seed share initial weights and data order. Differences are over seeds, ± is their 95 %
  interval (Student's t), *worst* the worst single pair. *Within noise* means that the interval holds 0 and that its
  lower end is above -1 point of accuracy, or -2 % of the loss for text. Losses are in nats.

| arm | what it is |
|---|---|
{arms}
"""


def _head() -> list[str]:
    factors = ", ".join(f"{factor:g}" for factor in RATE_FACTORS)
    arms = "\n".join(f"| {arm} | {words} |" for arm, words in ARMS)
    return [HEAD.format(command=COMMAND, factors=factors, arms=arms)]


def _missing(ledger: Ledger, plan: Plan) -> list[str]:
    """What is not there yet, in words that nobody can overlook."""
    lines = []
    if plan.missing:
        whole = plan.done + len(plan.missing)
        lines += [f"**This page is not complete: {len(plan.missing)} of {whole} runs are missing.**"]
        lines += ["What is below is from those that are there; *n* says how many pairs a figure has. Missing:", ""]
        by_task = Counter((slot.schedule, slot.task) for slot in plan.missing)
        for schedule in SCHEDULES:
            of_task = [f"{task} {by_task[schedule, task]}" for task in FAMILIES if by_task[schedule, task]]
            lines += [f"- {schedule}: {', '.join(of_task)}"] if of_task else []
        lines.append("")
    other = ledger.other_code()
    adopted = sum("adopted" in row and row["code"] == ledger.code for row in ledger.rows.values())
    if adopted:
        lines += [
            f"{adopted} rows were made by earlier code and count as of this one: rows of their arms, drawn at random"
        ]
        lines += ["and run again, came out the same in every figure (`--check`; each row says so).", ""]
    if plan.stale or other:
        lines += [f"{plan.stale} rows are of another configuration or other code than now and will be run again."]
        lines += [f"{other} of the {len(ledger.rows)} rows were made by other code.", ""]
    return lines


def _summary(rows: Sequence[Row]) -> list[str]:
    by_schedule = {schedule: answers(rows, schedule) for schedule in SCHEDULES}
    lines = ["## In short", "", "| does it hold? | wsd | cosine |", "|---|---|---|"]
    for number in range(len(by_schedule[SCHEDULES[0]])):
        both = [by_schedule[schedule][number] for schedule in SCHEDULES]
        lines.append(f"| {both[0].question} | {' | '.join(_strong(answer.verdict) for answer in both)} |")
    lines += ["", "By how much (positive is better for growth; accuracy in points, loss in nats):", ""]
    for schedule, found in by_schedule.items():
        for number, answer in enumerate(found, 1):
            known = {
                task: text for task, text in answer.by_task.items() if not text.startswith(("none", "accuracy none"))
            }
            if known:
                lines += [f"- {schedule}, line {number}. " + "; ".join(f"**{task}** {known[task]}" for task in known)]
    return [*lines, ""]


def _strong(verdict: str) -> str:
    word, colon, rest = verdict.partition(":")
    return f"**{word}**{colon}{rest}"


def _task(rows: Sequence[Row], task: str, code: str) -> list[str]:
    lines = [f"## {task}", "", f"{WORDS[task][0].upper()}{WORDS[task][1:]}.", ""]
    tables = [(schedule, Table(rows, task, schedule)) for schedule in SCHEDULES]
    known = [(schedule, table) for schedule, table in tables if any(table.test(arm) for arm, _ in ARMS)]
    if not known:
        return [*lines, "No run yet.", ""]
    for schedule, table in known:
        lines += [
            *_table(table, schedule),
            *_older(table, code),
            *_fates(table.test("grown")),
            *_chosen(table),
            *_wide(table),
            "",
        ]
    return lines


def _table(table: Table, schedule: str) -> list[str]:
    lines = [
        f"### {table.task}, {schedule}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for arm, _ in ARMS:
        rows = table.cut() if arm == "grown-75" else table.test(arm)
        if rows:
            size = f" {table.chosen_size(arm)}" if arm.startswith("sweep") else ""
            lines.append(_row(arm + size, rows, table))
    return [*lines, ""]


def _older(table: Table, code: str) -> list[str]:
    """Which arms' rows of a table are not of the code of now: whoever compares must know it."""
    older = [arm for arm, _ in ARMS if any(row["code"] != code for row in table.test(arm))]
    return [f"Made by earlier code: {', '.join(older)}.", ""] if older else []


def _row(name: str, rows: Sequence[Row], table: Table) -> str:
    cells = [name, str(len(rows)), f"{100 * mean(rows, 'accuracy'):.2f}"]
    gain, drop = (paired(table.test("grown"), rows, measure) for measure in ("accuracy", "loss"))
    itself = name == "grown" or not gain.pairs
    cells += ["", ""] if itself else [str(gain), f"{gain.worst:+.2f}"]
    cells.append(f"{mean(rows, 'loss'):.4f}")
    cells += ["", ""] if itself else [str(drop), f"{drop.worst:+.3f}"]
    cells.append(f"{mean(rows, 'params'):,.0f}")
    cells += [_mflops(rows, purpose) for purpose in (*PURPOSES, "rewound")]
    cells.append(f"{mean(rows, 'cpu_s'):.1f}")
    return f"| {' | '.join(cells)} |"


def _mflops(rows: Sequence[Row], purpose: str) -> str:
    value = sum(row["flops"].get(purpose, 0.0) for row in rows) / len(rows) / 1e6
    return "0" if not value else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _fates(grown: Sequence[Row]) -> list[str]:
    """What became of the seeds of the grown arm."""
    if not grown:
        return []
    germinated = sum(len(row["germinations"]) for row in grown)
    if not germinated:
        return [f"No seed germinated in {len(grown)} grown runs."]
    kept = Counter(f"{each['seed_id']} {each['blueprint_id']}" for row in grown for each in row["structure"])
    words = ", ".join(f"{what} in {count}" for what, count in sorted(kept.items(), key=lambda item: (-item[1], item)))
    return [
        f"Seeds of the {len(grown)} grown runs: {germinated} germinated, {kept.total()} are in the final networks,",
        f"the rest was rewound or culled. Kept, by slot, blueprint and runs: {words or 'none'}.",
    ]


def _chosen(table: Table) -> list[str]:
    """The rates and sizes that were chosen."""
    words = []
    for arm in ("control", "grown", "static"):
        best = table.best_rate(arm)
        if best is not None:
            tried = sorted(table.tuning(arm))
            edge = ", at an edge" if len(tried) > 1 and best[0] in (tried[0], tried[-1]) else ""
            words.append(f"{arm} {best[0]:g}{edge}")
    return (
        ["", f"Rates: {'; '.join(words)}. Best static net at the grown run's FLOPs: {table.best_static()}."]
        if words
        else []
    )


def _wide(table: Table) -> list[str]:
    """The host that is big enough."""
    control, grown = table.wide("control"), table.wide("grown")
    if not control or not grown:
        return []
    gain, drop = (paired(grown, control, measure) for measure in ("accuracy", "loss"))
    kept = sum(bool(row["structure"]) for row in grown)
    more = sum(sum(row["flops"].get(each, 0.0) for each in PURPOSES) for row in grown) / len(grown)
    base = sum(row["flops"]["training"] for row in control) / len(control)
    size = f"{table.family.wide}, {mean(control, 'params'):,.0f} parameters"
    return [
        "",
        f"A host that is big enough ({size}): control {100 * mean(control, 'accuracy'):.2f} %, loss",
        f"{mean(control, 'loss'):.4f}; grown better by {gain} points (worst pair {gain.worst:+.2f}),",
        f"loss lower by {drop}; {kept} of {len(grown)} runs kept a seed; {100 * (more / base - 1):+.0f} % FLOPs",
        f"(n = {gain.pairs}).",
    ]
