"""`esper run` from its start to its exit, and everything that can be read afterwards with nothing running."""

from __future__ import annotations

import json
import subprocess
from itertools import pairwise

import pytest

from contracts.topics import KERNELS
from streams.broker.launch import start_broker
from tests.forked import COLD, processes

FIELDS = {
    "run_id",
    "task",
    "seed",
    "epochs",
    "metric",
    "metrics",
    "test_metric",
    "probe_metric",
    "control_test_metric",
    "static_test_metric",
    "val_accuracy",
    "control_val_accuracy",
    "params_host",
    "params_final",
    "growth",
    "unproven",
    "val_accuracy_without",
    "test_loss_without",
    "static_test_loss",
    "test_loss",
    "static_flops",
    "static_val_accuracy",
    "static_run_id",
    "control_flops",
    "flops",
    "seeds",
    "events",
    "records_lost",
    "records_to_archive",
    "hook_ms",
    "first_step_s",
    "profile",
    "prompt_s",
    "torch_import_s",
    "cpu_s",
    "wall_s",
}
EPOCHS = 8


@pytest.fixture(scope="module")
def ran(shared_esper) -> subprocess.CompletedProcess[str]:
    """One run with its control, long enough that a seed germinates."""
    with processes(COLD):
        return shared_esper("run", "--epochs", str(EPOCHS), "--no-static", "--json")


@pytest.fixture(scope="module")
def result(ran):
    return json.loads(ran.stdout.splitlines()[-1])


def test_json_is_the_last_line_and_the_only_one(ran, result):
    assert ran.stdout.count("\n") == 1
    assert set(result) == FIELDS
    assert (result["task"], result["seed"], result["epochs"]) == ("digits", 0, EPOCHS)
    assert 0.2 < result["control_val_accuracy"] <= 1.0
    assert 0.2 < result["val_accuracy"] <= 1.0
    assert result["seeds"]["germinated"] >= 1
    assert result["params_final"] >= result["params_host"]
    assert 0.0 < result["hook_ms"]["p50"] <= result["hook_ms"]["p99"]
    assert 0.0 < result["first_step_s"] < result["wall_s"] - result["prompt_s"] < result["wall_s"] < 60.0
    assert 0.3 < result["torch_import_s"] < result["first_step_s"]
    assert 2.0 < result["cpu_s"] < 2.0 * result["wall_s"] + 1.0  # torch's import alone takes two, and CI has two cores


def test_progress_went_to_stderr_in_plain_lines(ran):
    assert f"epoch {EPOCHS}/{EPOCHS}" in ran.stderr
    assert "control" in ran.stderr
    assert "\x1b" not in ran.stderr


def test_nothing_is_left_running(ran, shared_esper):
    assert ran.returncode == 0
    assert shared_esper.processes() == []


def test_archive_holds_every_fact_once(result, shared_esper):
    for run_id in (result["run_id"], result["run_id"] + "-control"):
        rows = shared_esper.json(
            "sql",
            f"select count(*) as facts, count(distinct sequence) as sequences, min(sequence) as first, "
            f"max(sequence) as last from events where run_id = '{run_id}' and sequence > 0",
        )
        (row,) = rows
        assert row["first"] == 1
        assert row["facts"] == row["sequences"] == row["last"]
    query = f"select body, count(*) as n from events where run_id = '{result['run_id']}' group by body"
    counts = {row["body"]: row["n"] for row in shared_esper.json("sql", query)}
    # Nissa clears a run's alerts when the run is over, and the library answers when a kernel is there, also after that.
    late = sum(counts.get(body, 0) for body in ("alert_cleared", *KERNELS.bodies))
    assert sum(counts.values()) - late <= result["events"] <= sum(counts.values())


@pytest.mark.requirement("R-OPS-16")
def test_no_seed_reached_what_is_not_its_own_and_nothing_was_shed(result, shared_esper):
    query = (
        f"select count(*) as epochs, "
        f"sum(list_sum(list_transform(seeds, lambda s: s.isolation_violations))) as violations "
        f"from log.epoch_completed where run_id = '{result['run_id']}'"
    )
    (seen,) = shared_esper.json("sql", query)
    (run,) = shared_esper.json("sql", f"select telemetry_shed from runs where run_id = '{result['run_id']}'")

    assert (seen["epochs"], seen["violations"]) == (EPOCHS, 0)
    assert (run["telemetry_shed"], result["records_lost"]) == (0, 0)


def test_runs_lists_the_run_and_its_control(result, shared_esper):
    runs = {run["run_id"]: run for run in shared_esper.json("runs")}
    grown, control = runs[result["run_id"]], runs[result["run_id"] + "-control"]
    assert (grown["status"], control["status"]) == ("completed", "completed")
    assert grown["test_accuracy"] == result["val_accuracy"]
    assert control["test_accuracy"] == result["control_val_accuracy"]
    assert control["control_of"] == result["run_id"]
    assert control["seeds_germinated"] == 0
    text = shared_esper("runs").stdout
    assert result["run_id"] in text
    assert f"{EPOCHS}/{EPOCHS}" in text


def test_both_runs_began_with_the_same_weights_and_data(result, shared_esper):
    rows = shared_esper.json(
        "sql", "select distinct hex(weights_digest) as weights, data_fingerprint as data from log.run_started"
    )
    assert len(rows) == 1


def test_events_are_listed_by_type_and_by_the_beginning_of_a_run_id(result, shared_esper):
    prefix = result["run_id"][:5]
    lines = shared_esper("events", prefix, "--type", "epoch_completed").stdout.splitlines()
    assert len(lines) == EPOCHS
    assert all("probe accuracy" in line for line in lines)
    everything = [json.loads(line) for line in shared_esper("events", prefix, "--json").stdout.splitlines()]
    facts = [event for event in everything if event.get("sequence")]
    assert (facts[0]["type"], facts[-1]["type"]) == ("run_started", "run_finished")
    assert [fact["sequence"] for fact in facts] == list(range(1, len(facts) + 1))
    assert shared_esper("events", "last", "--follow", "--json").stdout.count("\n") == len(everything)


def test_why_tells_the_chain_of_a_seed(result, shared_esper):
    germination = next(
        event
        for event in map(json.loads, shared_esper("events", "last", "--json").stdout.splitlines())
        if event["type"] == "adaptation_command"
    )
    seed = germination["body"]["target_seed_id"]
    chain = shared_esper.json("why", "last", seed)
    kinds = [(event["depth"], event["type"]) for event in chain]
    assert kinds[:4] == [
        (0, "epoch_completed"),
        (1, "decision_made"),
        (2, "adaptation_command"),
        (3, "command_applied"),
    ]
    assert {"seed_transitioned", "gate_evaluated", "kernel_attached", "field_report"} <= {kind for _, kind in kinds}
    for cause, effect in pairwise(chain[:4]):
        assert effect["causation_id"] == cause["event_id"]
    text = shared_esper("why", "last", seed).stdout
    assert f"seed {seed} of run {result['run_id']}" in text
    assert "└─ decision_made  germinate" in text


def test_sql_answers_and_points_at_what_is_wrong(ran, shared_esper):
    assert shared_esper.json("sql", "select 6 * 7 as answer") == [{"answer": 42}]
    assert "answer" in shared_esper("sql", "select 6 * 7 as answer").stdout
    tables = {row["name"] for row in shared_esper.json("sql", "show tables")}
    assert {"runs", "epochs", "decisions", "commands", "transitions", "gates", "seeds", "reports", "events"} <= tables
    wrong = shared_esper("sql", "select * from nowhere", code=2).stderr
    assert wrong.startswith("esper: the query is wrong: Catalog Error: Table with name nowhere does not exist!")
    assert wrong.splitlines()[1:] == ["LINE 1: select * from nowhere", f"{'^^^^^^^':>29}"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("events", "zzzzzzzz"), "there is no run 'zzzzzzzz'"),
        (("why", "last", "s99"), "has no seed 's99' that did anything"),
        (("events", "last", "--type", "epochs_completed"), "did you mean epoch_completed?"),
    ],
)
def test_what_does_not_exist_is_one_line(ran, shared_esper, arguments, says):
    stderr = shared_esper(*arguments, code=2).stderr
    assert says in stderr
    assert stderr.count("\n") == 1


@pytest.mark.requirement("R-OPS-1", "R-OPS-16")
def test_plain_run_prints_lines_and_a_summary_and_is_followed_to_its_end(esper):
    process = esper.start("run", "--epochs", "4", "--no-control", "--task", "spirals")
    esper.wait_until(lambda: process.stdout.readline().startswith("grown    epoch 1/"))
    lines = esper("events", "last", "--follow", "--json").stdout.splitlines()
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    facts = [event for event in map(json.loads, lines) if event.get("sequence")]
    assert [fact["sequence"] for fact in facts] == list(range(1, len(facts) + 1))
    assert facts[-1]["type"] == "run_finished"
    assert "\x1b" not in text
    assert "grown    epoch 4/4" in text
    for part in ("test accuracy", "parameters", "FLOPs", "seeds", "events written", "epoch hook", "try next"):
        assert part in text
    assert "points" not in text


def test_outside_broker_needs_its_address_and_key_alone(esper, tmp_path, monkeypatch):
    outside = start_broker(tmp_path / "elsewhere", anonymous=True)
    try:
        monkeypatch.setenv("ESPER_BROKERS", outside.address)
        monkeypatch.setenv("ESPER_KEY", "cd" * 32)
        result = esper.json("run", "--epochs", "1", "--no-control", "--task", "spirals")
    finally:
        outside.stop()
    assert not (esper.data_dir / "log").exists()
    monkeypatch.delenv("ESPER_BROKERS")
    (run,) = esper.json("runs")
    assert (run["run_id"], run["status"]) == (result["run_id"], "completed")


def test_what_grew_is_trained_from_its_first_step_for_as_many_flops(esper):
    """A run of its own on the log, found by the grown one's name, with the grown run's size and nothing to decide."""
    told = esper.json("run", "--epochs", "8", "--lifecycle", "direct", "--no-control", "--static")
    spent = sum(told["flops"].values())
    assert told["growth"] in {"paid", "did not pay", "within noise"}
    assert abs(told["static_flops"] - spent) < 0.2 * spent

    static, grown = esper.json("runs")
    assert (static["run_id"], static["static_of"]) == (told["static_run_id"], grown["run_id"])
    assert (static["status"], static["policy"]) == ("completed", "none")
    assert (static["test_accuracy"], static["flops"]) == (told["static_val_accuracy"], told["static_flops"])
    assert static["params_host"] == static["params_final"] == grown["params_final"] > grown["params_host"]
    (line,) = [line for line in esper("runs").stdout.splitlines() if grown["run_id"] in line]
    assert f"{static['test_metric']:.2f}" in line  # that it replays: unit/tolaria/test_static.py
