"""The growth table's protocol: intervals and noise, rows that outlive a kill, what is missing, and what the page says.

Rows are made by hand but for two tiny real runs at the end.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from contracts.leyline.v1.event_pb2 import EpochCompleted, RolledBack
from esper.leyline.envelope import Event, new_event
from esper.tolaria.structure import Piece
from tests.bench.growth import __main__ as command
from tests.bench.growth import training
from tests.bench.growth.check import check
from tests.bench.growth.jobs import FAMILIES, Job, code_version, fitted
from tests.bench.growth.ledger import Ledger
from tests.bench.growth.page import page
from tests.bench.growth.paired import cost, interval, paired, total
from tests.bench.growth.plan import FIRST_TEST_SEED, TUNING_SEEDS, Plan, Scope, make_plan, rates, scripted
from tests.bench.growth.verdicts import Table, answers

CODE = "0123456789abcdef"


def row_of(job: Job, **figures: Any) -> dict[str, Any]:
    """The row that a run of this job could have left."""
    learnt = job.budget - 2e7 if job.budget else 1e9
    flops = {"training": learnt, "side_pass": 0.0, "probe": 1e7, "evidence": 1e7, "rewound": 0.0}
    row = {name: getattr(job, name) for name in ("task", "arm", "schedule", "seed", "on", "size", "rate")}
    row |= {
        "config": job.digest(),
        "job": job.what(),
        "code": CODE,
        "status": "completed",
        "accuracy": 0.5,
        "loss": 1.0,
        "params": 300,
    }
    row |= {"steps": job.steps or 2400, "flops": flops, "cpu_s": 2.0, "germinations": [], "structure": []}
    return row | figures


def piece(seed_id: str, blueprint_id: str, **settings: float) -> dict[str, Any]:
    return asdict(Piece(seed_id, blueprint_id, settings))


def an_event(body: Any, epoch: int) -> Event:
    return new_event(body, event_id=bytes(16), run_id="bench", producer="trainer", recorded_at_ns=0, epoch=epoch)


def fill(ledger: Ledger, scope: Scope, figures: Any = lambda _job: {}) -> Plan:
    """Answer every job with a row until nothing is missing; the last plan."""
    for _round in range(20):
        plan = make_plan(ledger, scope)
        ready = list(plan.ready)
        if not ready:
            return plan
        for job in ready:
            row = row_of(job, **figures(job))
            ledger.rows[job.key] = row
    raise AssertionError("the plan never ends")


# ------------------------------------------------------------------------------------------------------- statistics


def test_the_interval_is_students():
    """Of four differences: t is 3.1824 at 97.5 %."""
    mean, half = interval([1.0, 2.0, 3.0, 4.0])

    assert mean == 2.5
    assert half == pytest.approx(3.1824 * 1.2910 / 2, rel=1e-4)
    assert math.isnan(interval([1.0])[1])


@pytest.mark.parametrize(
    ("measure", "gains", "better", "within", "worse"),
    [
        ("accuracy", [1.0, 1.2, 1.1], True, False, False),
        ("accuracy", [0.5, -0.5, 0.1, -0.1], False, True, False),
        ("accuracy", [3.0, -3.0], False, False, False),  # it holds 0 and may be anything
        ("accuracy", [-0.5, -0.51, -0.49], False, False, True),  # less than a point, and surely worse
        ("accuracy", [0.0, 0.0], False, True, False),
        ("loss", [0.01, -0.01, 0.0], False, False, False),  # the lower end is -0.025 and 2 % of the loss is 0.02
        ("loss", [0.005, -0.005, 0.0], False, True, False),
    ],
)
def test_noise_is_what_the_issue_says(measure, gains, better, within, worse):
    one = [{"seed": seed, "accuracy": 0.5 + gain / 100, "loss": 1.0 - gain} for seed, gain in enumerate(gains)]
    other = [{"seed": seed, "accuracy": 0.5, "loss": 1.0} for seed in range(len(gains) + 3)]
    pair = paired(one, other, measure)

    assert (pair.better, pair.within_noise, pair.worse) == (better, within, worse)
    assert pair.pairs == len(gains)
    assert pair.worst == pytest.approx(min(gains))


def test_a_grown_run_pays_for_everything_and_a_static_net_for_its_steps():
    flops = {"training": 10.0, "side_pass": 1.0, "probe": 2.0, "evidence": 3.0, "rewound": 5.0}

    assert total({"flops": flops}) == 16
    assert [cost({"arm": arm, "flops": flops}) for arm in ("grown-75", "direct", "static")] == [16, 16, 10]


# ------------------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("steps", "per_epoch"), [(2400, 60), (1801, 60), (401, 10), (335, 10), (7, 10), (1, 10), (90_000, 20)]
)
def test_a_run_that_is_cut_has_its_steps_but_for_a_few(steps, per_epoch):
    epochs, each = fitted(steps, per_epoch)

    assert 0.995 * steps - 1 <= epochs * each <= steps
    assert each <= per_epoch
    assert fitted(40 * per_epoch, per_epoch) == (40, per_epoch)


# ------------------------------------------------------------------------------------------------------------ ledger


def a_job(**changes: Any) -> Job:
    return Job(
        **{"task": "tab", "arm": "control", "schedule": "wsd", "seed": 0, "on": "test", "size": "8", "rate": 5e-3}
        | changes
    )


def test_rows_outlive_a_kill_in_the_middle_of_a_line(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    first, second = a_job(), a_job(seed=1)
    Ledger(path, CODE).append(row_of(first))
    with path.open("a") as file:
        file.write(json.dumps(row_of(second))[:50])
    ledger = Ledger(path, CODE)
    found = (ledger.find(first) is not None, ledger.find(second), ledger.unreadable)
    ledger.tidy()
    ledger.append(row_of(second))

    assert found == (True, None, 1)
    assert len(path.read_text().splitlines()) == 2
    assert Ledger(path, CODE).find(second) is not None


def test_a_row_of_another_configuration_or_other_code_is_stale(tmp_path: Path):
    path, job = tmp_path / "rows.jsonl", a_job()
    Ledger(path, CODE).append(row_of(job))
    now, other = Ledger(path, CODE), Ledger(path, "other code")

    assert now.find(job) is not None
    assert now.find(a_job(rate=1e-2)) is None
    assert now.is_stale(a_job(rate=1e-2))
    assert not now.is_stale(a_job(seed=5))
    assert other.find(job) is None
    assert other.is_stale(job)
    assert Ledger(path, "other code", keep_stale=True).find(job) is not None


def test_the_code_version_knows_code_and_no_words(tmp_path: Path):
    def version(text: str) -> str:
        (tmp_path / "module.py").write_text(text)
        return code_version([tmp_path])

    first = version('"""Words."""\ndef f(x):\n    """More."""\n    return x + 1\n')

    assert version("def f(x):\n    return x + 1  # a comment\n") == first
    assert version("def f(x):\n    return x + 2\n") != first


def test_rows_of_other_code_hold_where_some_of_their_arm_come_out_the_same(tmp_path: Path):
    """One row of the arms is run again; what differs is named, and no row of that arm holds."""
    scope, made = Scope({"tab": ("control",), "tabn": ("control",)}, ("wsd",), 4), list[Job]()
    old = Ledger(tmp_path / "rows.jsonl", CODE)
    fill(old, scope)
    for row in list(old.rows.values()):
        old.append(row | {"epochs": 40, "params_host": 300})

    def again(job: Job) -> dict[str, Any]:
        made.append(job)
        moved = {"loss": 0.5} if job.task == "tabn" and job.on == "test" else {}
        return row_of(job, epochs=40, params_host=300, **moved)

    ledger = Ledger(old.path, "newer")
    found = check(ledger, scope, 1, seed=0, run=again)
    rows = list(Ledger(old.path, "newer").rows.values())

    assert (found.checked, found.adopted) == (len(made), len(old.rows) - 4)
    assert [line.split()[0] for line in found.unequal] == ["tabn"]
    assert "loss is 0.5, and was 1.0" in found.unequal[0]
    assert {(row["task"], row["on"]) for row in rows if row["code"] == CODE} == {("tabn", "test")}
    assert all(row["adopted"]["from"] == CODE for row in rows if row["code"] == "newer")
    assert make_plan(Ledger(old.path, "newer"), scope).stale == 4


# -------------------------------------------------------------------------------------------------------------- plan


def test_what_depends_on_other_rows_waits_for_them(tmp_path: Path):
    ledger, scope = Ledger(tmp_path / "rows.jsonl", CODE), Scope({"tab": ("static-equal",)}, ("wsd",), 2)
    plan = make_plan(ledger, scope)
    grown = {(job.arm, job.on) for job in plan.ready}

    assert grown == {("grown", "probe")}
    assert {slot.arm for slot in plan.missing} == {"grown", "static", "static-equal"}

    structure = [piece("s1", "BP008", factor=1.0)]
    last = fill(ledger, scope, lambda job: {"structure": structure} if job.arm == "grown" else {})
    static = ledger.rows["tab", "static", "wsd", str(FIRST_TEST_SEED), "test", "8", ""]
    equal = ledger.rows["tab", "static-equal", "wsd", str(FIRST_TEST_SEED), "test", "8", ""]

    assert (len(last.missing), last.stale) == (0, 0)
    assert last.done == 12 + 12 + 3 + 3 * 2  # of equal rates the first is best, at an edge: a fourth is tried
    assert static["steps"] == 2400
    assert equal["steps"] == int(2400 * 1.02)  # all of the grown run's FLOPs, for steps alone


@pytest.mark.parametrize(
    ("scores", "best", "numbers"),
    [
        ((0.9, 0.3, 0.4, 0.3, 0.9), 2, (1, 2, 3)),  # what lies beyond is not tried where the best has neighbours
        ((0.9, 0.3, 0.4, 0.6, 0.5), 3, (1, 2, 3, 4)),
        ((0.3, 0.3, 0.4, 0.6, 0.7), 4, (1, 2, 3, 4)),
        ((0.9, 0.6, 0.4, 0.3, 0.9), 0, (0, 1, 2, 3)),
    ],
)
def test_the_rate_of_the_table_is_the_best_on_the_probe_set(tmp_path: Path, scores, best, numbers):
    ledger, scope = Ledger(tmp_path / "rows.jsonl", CODE), Scope({"tab": ("control",)}, ("cosine",), 1)
    ladder = rates("tab", "8")
    fill(ledger, scope, lambda job: {"accuracy": dict(zip(ladder, scores, strict=True))[job.rate]})
    tried = {row["rate"] for row in ledger.rows.values() if row["on"] == "probe"}

    assert ledger.rows["tab", "control", "cosine", "100", "test", "8", ""]["rate"] == ladder[best]
    assert sorted(tried) == [ladder[number] for number in numbers]


def test_a_stale_row_takes_with_it_what_was_made_from_it(tmp_path: Path):
    ledger, scope = Ledger(tmp_path / "rows.jsonl", CODE), Scope({"tab": ("static",)}, ("wsd",), 2)
    fill(ledger, scope)
    ledger.rows["tab", "grown", "wsd", "100", "test", "8", ""]["code"] = "older"
    plan = make_plan(ledger, scope)

    assert [(slot.arm, slot.job is None) for slot in plan.missing] == [("grown", False), ("static", True)]
    assert plan.stale == 1


def test_seeds_that_choose_and_seeds_that_are_told_are_not_the_same(tmp_path: Path):
    plan = make_plan(Ledger(tmp_path / "rows.jsonl", CODE), Scope())
    slots = {(slot.task, slot.on, slot.job.seed) for slot in plan.missing if slot.job is not None}

    assert {task for task, on, _ in slots} == set(FAMILIES)
    assert not {seed for _, on, seed in slots if on == "probe"} - set(TUNING_SEEDS)
    assert all(seed < FIRST_TEST_SEED for seed in TUNING_SEEDS)
    assert [len(Scope().test_seeds(task)) for task in ("m1d_mlp", "tab", "tabn", "doc")] == [20, 20, 20, 10]


def test_a_script_has_each_slot_once_in_order():
    recorded = [[7, piece("s2", "BP009")], [3, piece("s1", "BP008")], [9, piece("s2", "BP013", factor=0.5)]]

    assert scripted(recorded) == ((3, Piece("s1", "BP008")), (7, Piece("s2", "BP009")))


# -------------------------------------------------------------------------------------------------------------- page


def figures(better: float):
    """Grown is better than everything by this many points, with a little that differs from seed to seed."""

    def of(job: Job) -> dict[str, Any]:
        noise = 0.001 * (job.seed % 3)
        gain = better / 100 if job.arm.startswith("grown") and job.size == FAMILIES[job.task].sizes[0] else 0.0
        structure = [piece("s1", "BP008")] if job.arm == "grown" and job.task != "tabn" and gain else []
        told = {"structure": structure, "germinations": [(5, each) for each in structure]}
        return told | {"accuracy": 0.5 + noise + gain, "loss": 1.0 - noise - gain}

    return of


@pytest.mark.parametrize(("better", "verdict"), [(2.0, "yes"), (-2.0, "no"), (0.0, "no")])
def test_the_answers_follow_the_rows(tmp_path: Path, better: float, verdict: str):
    ledger, scope = Ledger(tmp_path / "rows.jsonl", CODE), Scope(schedules=("wsd",), seeds=3)
    fill(ledger, scope, figures(better))
    found = answers(list(ledger.rows.values()), "wsd")

    assert found[0].verdict.startswith(verdict)
    assert found[1].verdict.startswith(verdict)
    assert found[2].verdict.startswith("no" if better < 0 else "yes")
    assert found[5].verdict.startswith("yes")
    assert answers(list(ledger.rows.values()), "cosine")[0].verdict.startswith("not yet")


def test_the_page_of_a_few_rows_says_what_is_missing(tmp_path: Path):
    ledger = Ledger(tmp_path / "rows.jsonl", CODE)
    fill(ledger, Scope({"tab": ("control", "static-equal", "wide")}, ("wsd",), 3), figures(2.0))
    text = page(ledger, make_plan(ledger, Scope()))
    table = text.partition("### tab, wsd")[2].partition("## tabn")[0]
    cells = {line.split(" | ")[0]: line for line in table.splitlines() if line.startswith("| ")}

    assert "**This page is not complete: " in text
    assert "- cosine: tab " in text
    assert "| control | 3 | 50.10 | +2.00 ± 0.00 | +2.00 | 0.9990 |" in cells["| control"]
    assert "| grown | 3 | 52.10 |  |  | 0.9790 |" in cells["| grown"]
    assert "No run yet." in text.partition("## doc")[2]
    assert "**not yet**: on 1 of 1 tasks with figures, 4 of 7 asked" in text
    assert "A host that is big enough (128" in table
    assert "Made by earlier code" not in text
    assert "Made by earlier code: control, grown, static, static-equal." in page(
        Ledger(ledger.path, "now", rows=ledger.rows), make_plan(ledger, Scope())
    )
    assert "nan" not in text


def test_the_page_compares_the_defaults_seed_by_seed(tmp_path: Path):
    """What is worse than noise is named, with its measure; what was not run is an empty cell."""
    ledger = Ledger(tmp_path / "rows.jsonl", CODE)
    better = {"wsd": 0.05, "cosine": 0.0}
    scope = Scope(arms={"tab": ("control",)}, seeds=3)
    fill(
        ledger,
        scope,
        lambda job: {"accuracy": 0.5 + better[job.schedule] + job.seed / 1e4, "loss": 1 + better[job.schedule]},
    )
    row = next(line for line in page(ledger, make_plan(ledger, scope)).splitlines() if "cosine, control" in line)
    assert row.split("|")[1:-1] == [
        " wsd against cosine, control ",
        " **+5.00 ± 0.00** / **-0.050 ± 0.000** ",
        *["  "] * (len(FAMILIES) - 1),
        " tab (loss) ",
    ]


def test_an_empty_page_is_a_page(tmp_path: Path):
    ledger = Ledger(tmp_path / "rows.jsonl", CODE)
    plan = make_plan(ledger, Scope())
    text = page(ledger, plan)

    assert f"{len(plan.missing)} of {len(plan.missing)} runs are missing" in text
    assert "nan" not in text


def test_a_host_that_is_wide_must_be_left_bit_identical(tmp_path: Path):
    ledger = Ledger(tmp_path / "rows.jsonl", CODE)
    fill(ledger, Scope({"tab": ("wide",)}, ("wsd",), 3), figures(0.0))
    rows = list(ledger.rows.values())
    same = answers(rows, "wsd")[5].by_task["tab"]
    next(row for row in rows if row["arm"] == "grown" and row["seed"] == 101)["loss"] += 1e-12
    moved = answers(rows, "wsd")[5].by_task["tab"]

    assert "nothing kept in 3 of 3 runs, 3 of these bit-identical" in same
    assert "nothing kept in 3 of 3 runs, 2 of these bit-identical" in moved


def test_the_best_static_net_is_chosen_on_the_probe_set(tmp_path: Path):
    def of(job: Job) -> dict[str, Any]:
        good = job.on == "probe" and job.arm == "sweep-equal" and job.size == "32"
        return {"accuracy": 0.9 if good else 0.5}

    ledger = Ledger(tmp_path / "rows.jsonl", CODE)
    fill(ledger, Scope({"tab": ("static-equal", "sweep-equal")}, ("wsd",), 2), of)
    table = Table(list(ledger.rows.values()), "tab", "wsd")

    assert table.best_static() == "sweep-equal"
    assert [row["size"] for row in table.test("sweep-equal")] == ["32", "32"]


def test_a_cut_run_that_did_not_keep_its_budget_is_not_judged(tmp_path: Path):
    ledger = Ledger(tmp_path / "rows.jsonl", CODE)
    fill(ledger, Scope({"tab": ("grown-75",)}, ("wsd",), 2))
    table = Table(list(ledger.rows.values()), "tab", "wsd")
    assert [row["seed"] for row in table.cut()] == [100, 101]
    table.test("grown-75")[0]["flops"]["training"] += 1.0

    assert [row["seed"] for row in table.cut()] == [101]


# ----------------------------------------------------------------------------------------------------------- real runs


def test_a_script_grows_what_it_says_and_a_cut_run_ends_where_it_should():
    script = ((0, Piece("s1", "BP008")), (1, Piece("s2", "BP009")))
    job = a_job(task="tabn", on="probe", steps=20, arm="direct", script=script)
    row = training.run(job)

    assert scripted(json.loads(json.dumps(row["germinations"]))) == script
    assert [(each["seed_id"], each["blueprint_id"]) for each in row["structure"]] == [("s1", "BP008"), ("s2", "BP009")]
    assert (row["epochs"], row["steps"], row["refused"]) == (2, 20, {})
    assert row["params"] > row["params_host"] == 258

    structure = tuple(Piece.from_dict(each) for each in json.loads(json.dumps(row["structure"])))
    static = training.run(a_job(task="tabn", on="probe", steps=20, arm="static", structure=structure))

    assert static["params"] == row["params"]
    assert static["flops"]["training"] > row["flops"]["training"]


def test_the_command_trains_what_is_missing_and_goes_on_where_it_was(tmp_path: Path, capsys):
    rows = tmp_path / "results.jsonl"
    asked = ["--only", "tabn", "direct", "--schedules", "wsd", "--seeds", "1", "--epochs", "2", "--rows", str(rows)]
    command.main([*asked, "--workers", "1", "--plan"])
    planned = capsys.readouterr().out
    existed = rows.exists()
    command.main([*asked, "--workers", "1"])
    whole = rows.read_text()
    capsys.readouterr()
    command.main([*asked, "--workers", "1"])
    again = capsys.readouterr().out

    assert "  wsd     tabn     grown          probe     9 missing, 0 wait for others" in planned
    assert "11 runs are missing, 0 are there" in planned  # and three more, if the best rate is at an edge
    assert not existed
    rows_made = len(whole.splitlines())
    assert rows_made in (11, 14)
    assert f"0 runs are missing, {rows_made} are there" in again
    assert rows.read_text() == whole
    assert "# Does growth pay?" in rows.with_suffix(".md").read_text()


def test_what_a_rewind_took_back_is_counted_once_more():
    def epoch(number: int, flops: float) -> Event:
        return an_event(EpochCompleted(flops=flops), number)

    def back(level: str, to_epoch: int) -> Event:
        return an_event(RolledBack(level=level, to_epoch=to_epoch), to_epoch)

    events = [
        epoch(1, 10.0),
        epoch(2, 20.0),
        epoch(3, 32.0),
    ]  # the fourth ends with a failed proof, and without a packet
    events += [back("rewind", 2), epoch(3, 54.0)]
    assert training.rewound(events) == 24.0
    events += [back("fast", 2), epoch(3, 75.0)]
    assert training.rewound(events) == 24.0
    events += [back("rewind", 1), epoch(2, 95.0)]  # behind the first, which is not counted twice
    assert training.rewound(events) == 75.0


@pytest.mark.parametrize("asked", [["--only", "tob"], ["--only", "tab", "contrl"]])
def test_a_name_that_is_unknown_is_told_with_those_that_exist(asked, capsys):
    with pytest.raises(SystemExit):
        command.main(asked)

    assert "there are" in capsys.readouterr().err
