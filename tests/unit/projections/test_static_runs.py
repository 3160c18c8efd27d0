"""A static run in the history: it names the grown run by its configuration, and goes where that goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from projections import export, open_history
from projections.archive_writer import Archive
from projections.history import History
from projections.report.page import verdict
from projections.report.report_query import report_query
from projections.testing import LogOfRecords, Trainers


def trained(run_id: str, config: dict[str, object], loss: float, flops: float) -> Trainers:
    run = Trainers(run_id)
    run.events[0].run_started.config_json = json.dumps(config, sort_keys=True)
    run.complete_epoch(0)
    run.finish(0)
    end = run.events[-1].run_finished
    end.status, end.test_loss, end.test_accuracy, end.flops = "completed", loss, 0.9, flops
    return run


@pytest.fixture
def history(tmp_path: Path) -> History:
    grown, control = trained("grown", {"static_of": ""}, 0.25, 2e6), trained("grown-control", {}, 0.5, 1e6)
    control.events[0].run_started.control_of = "grown"
    static = trained("grown-static", {"seed": 0, "static_of": "grown"}, 0.3, 1.9e6)
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place([*grown.events, *control.events, *static.events]))
    with open_history(tmp_path / "archive") as opened:
        yield opened


def test_it_is_listed_with_the_run_that_it_belongs_to(history):
    told = history.execute("select run_id, control_of, static_of from runs order by run_id").fetchall()

    assert told == [("grown", None, None), ("grown-control", "grown", None), ("grown-static", None, "grown")]


def test_it_is_exported_with_that_run(history):
    assert sorted(run for (run,) in history.execute(export._FAMILY, {"run": "grown"}).fetchall()) == [
        "grown",
        "grown-control",
        "grown-static",
    ]


def test_the_report_compares_at_equal_cost(history):
    told = report_query(history, "grown")

    assert list(told.runs) == ["grown", "control", "static"]
    assert verdict(told).endswith(
        "At equal cost (2,000,000 and 1,900,000 FLOPs) a net with that structure from its first step compares by test "
        "accuracy as 90.00 % against 90.00 % and by test loss as 0.25 against 0.3."
    )
    assert "At equal cost" not in verdict(report_query(history, "grown-control"))
