"""The trace of a run: what is in it, that the run is the same with and without, and that nobody else imports it."""

from __future__ import annotations

import ast
import gzip
import json
from pathlib import Path

import pytest

from esper.testing import REAL_CLOCK
from esper.tolaria import profile as profiles
from esper.tolaria.config import RunConfig
from esper.tolaria.profile import Profile
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld

SPANS = {
    "epoch's end",
    "probe",
    "gates",
    "evidence",
    "hook",
    "packet built",
    "packet published",
    "decision waited for",
    "command applied",
    "log waited for",
    "state digested",
    "checkpoint",
}


def profiled(bench, task, should_stop, file: Path) -> dict:
    """The trace of a run that is otherwise as `bench.run` does it."""
    settings = {"task": "tiny", "policy": "explore", "decision_timeout_s": None, "rate_policy": "constant"}
    world = bench.world(bench.verifier, None, should_stop)
    with Profile(REAL_CLOCK, file) as seen:
        watched = LiveWorld(seen.outside(world.outside))
        train(RunConfig(**settings, growth_data_share=0.0), task, watched, run_id="run")
    with gzip.open(file) as packed:
        return json.load(packed)


def test_a_profiled_run_is_the_same_run_and_its_trace_has_the_spans(
    bench, second_bench, tiny_task, tmp_path, monkeypatch
):
    monkeypatch.setattr(profiles, "STEPS_OF_AN_EPOCH", 2)  # of four: so the operators of some are left out
    second_bench.run(tiny_task(epochs=4), second_bench.growing(after=2), policy="explore")

    trace = profiled(bench, tiny_task(epochs=4), bench.growing(after=2), tmp_path / "profiles" / "run.json.gz")

    assert bench.digests() == second_bench.digests() != []
    assert bench.digests("transition") == second_bench.digests("transition") != []
    events = [each for each in trace["traceEvents"] if each["ph"] == "X"]
    ours = [each for each in events if each.get("cat") == "esper"]
    assert {each["name"] for each in ours} >= SPANS | {f"epoch {number}" for number in range(1, 5)}
    stages = [each["name"] for each in ours if each["tid"] == 1]
    assert stages[:2] == ["GERMINATED BP009", "TRAINING BP009"]
    among = {each["name"] for each in events if each.get("cat") == "user_annotation"}
    assert among >= {f"esper: {name}" for name in SPANS}
    # Both parts lie on one time axis, whatever kept the processor between the two clocks.
    own = next(each for each in ours if each["name"] == "hook")
    seen = next(each for each in events if each["name"] == "esper: hook")
    assert abs(own["ts"] - seen["ts"]) < 10e6
    # Of each of the four epochs two steps have operators, of the four that it has.
    assert len([each for each in events if each["name"].startswith("Optimizer.step")]) == 8


@pytest.mark.requirement("R-TOL-36")
def test_a_trace_that_cannot_be_written_costs_the_run_nothing(bench, tiny_task, tmp_path, caplog):
    (tmp_path / "profiles").write_text("a file stands in its way")
    world = bench.world(bench.verifier)
    with Profile(REAL_CLOCK, tmp_path / "profiles" / "run.json.gz") as seen:
        watched = LiveWorld(seen.outside(world.outside))
        result = train(RunConfig(task="tiny", policy="none", epochs=1), tiny_task(), watched, run_id="run")

    assert result.status == "completed"
    assert "the profile cannot be written" in caplog.text


def test_nothing_of_it_is_imported_without_the_option():
    """No module has it at its top: whoever is asked to profile imports it then."""
    root = Path(profiles.__file__).parents[2]
    importing = {
        file.name: [node.col_offset for node in ast.walk(ast.parse(file.read_text("utf-8"))) if named(node)]
        for file in (root / "esper").rglob("*.py")
        if "esper.tolaria.profile " in file.read_text("utf-8")
    }

    assert set(importing) >= {"trainer.py", "growth.py"}
    assert all(column > 0 for columns in importing.values() for column in columns)


def named(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "esper.tolaria.profile"
