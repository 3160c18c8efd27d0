"""What other tools are given of a run, and that a tool which is not installed is missed in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from esper.cli.app import dispatch
from esper.cli.interchange import WAYS
from esper.errors import InvalidInput
from projections import open_sample, questions
from projections.interchange.figures import taken
from projections.interchange.libraries import library


def of(run, name: str) -> list[tuple[int, float]]:
    return [(each.at, each.value) for each in run.points if each.name == name]


def test_figures_are_those_of_the_views_each_on_its_axis(run):
    with open_sample() as history:
        epochs = history.execute(
            "SELECT epoch, probe_loss FROM epochs WHERE run_id = ? AND surviving ORDER BY epoch", [run.run_id]
        ).fetchall()
        steps = history.execute(
            "SELECT DISTINCT step FROM telemetry WHERE run_id = ? AND name = 'loss' ORDER BY step", [run.run_id]
        ).fetchall()
        moves = history.execute(
            "SELECT count(*) FROM transitions WHERE run_id = ? AND surviving", [run.run_id]
        ).fetchone()

    assert of(run, "epoch/probe_loss") == epochs != []
    assert [at for at, _ in of(run, "step/loss")] == [step for (step,) in steps]
    assert {each.axis for each in run.points if each.name.startswith("epoch/")} == {"epoch"}
    assert {each.axis for each in run.points if each.name.startswith(("step/", "seeds/"))} == {"step"}
    assert len([each for each in run.notes if each.name.startswith("seeds/")]) == moves[0] > 3
    assert run.settings["seeds.lifecycle"] == "full"
    assert run.tags["esper.run_id"] == run.run_id
    assert len({(each.name, each.at) for each in run.points}) == len(run.points)


def test_a_run_that_there_is_not(run):
    with open_sample() as history, pytest.raises(InvalidInput, match="there is no run nobody"):
        taken(history, "nobody")


def test_a_library_that_is_missing_is_told_with_its_extra():
    with pytest.raises(InvalidInput, match=r"pip install 'esper-lite\[tensorboard\]'"):
        library("a_library_that_there_is_not", "tensorboard")


def test_the_collector_of_deploy_is_where_runs_are_sent_to_by_default():
    made = yaml.safe_load((Path(__file__).parents[4] / "deploy/otel-collector.yaml").read_text("utf-8"))

    address = made["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert WAYS["otlp"].place == f"http://{address}"
    for pipeline in made["service"]["pipelines"].values():
        assert all(set(pipeline[part]) <= set(made[part]) for part in ("receivers", "processors", "exporters"))


def test_what_does_not_go_together_is_told_in_one_line(capsys):
    folder = str(questions.folder())
    code = dispatch(["export", "last", "--data-dir", folder, "--as", "mlflow", "--with-objects"])

    assert code == 2
    assert "leave --with-objects and --with-network out" in capsys.readouterr().err
    assert dispatch(["sql", "--sample", "from runs", "--beside", "tensorboard"]) == 2
    assert "is no place of another tool" in capsys.readouterr().err
