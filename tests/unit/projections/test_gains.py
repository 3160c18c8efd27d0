"""What growth won: the view `gains`, with the right sign in either direction, and its spread in the report."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from contracts.leyline.v1.event_pb2 import Metric, MetricValue, StepSampled
from projections import open_history
from projections.archive_writer import Archive
from projections.history import History
from projections.pictures import of_run
from projections.report.page import over_seeds, page, verdict
from projections.report.report_query import report_query
from projections.testing import LogOfRecords, Trainers

MAE = {"name": "mae", "unit": "mm", "lower_is_better": True}


def trained(
    run_id: str, seed: int, mae: float, *, control_of: str = "", static_of: str = "", optimizer: str = "sgd"
) -> Trainers:
    """A regression that came to this error; its history knows more with every seed."""
    run = Trainers(run_id)
    config = {"dossier": {"outcomes": seed}, "optimizer": optimizer, "learning_rate": 0.02, "seed": seed}
    run.events[0].run_started.config_json = json.dumps(config | {"static_of": static_of}, sort_keys=True)
    run.events[0].run_started.control_of = control_of
    run.events[0].run_started.metrics.append(Metric(**MAE))
    run.complete_epoch(0)
    run.events[-1].epoch_completed.metrics.append(MetricValue(**MAE, value=mae + 0.1, stderr=0.01))
    run.finish(0)
    end = run.events[-1].run_finished
    end.status, end.test_loss, end.test_accuracy = "completed", mae**2, float("nan")
    end.metrics.append(MetricValue(**MAE, value=mae, stderr=0.01))
    return run


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    folder = tmp_path_factory.mktemp("gains") / "archive"
    runs = []
    for seed, (grown, control, static) in enumerate([(0.40, 0.60, 0.41), (0.42, 0.61, 0.39), (0.41, 0.62, 0.42)]):
        runs += [
            trained(f"run{seed}", seed, grown),
            trained(f"run{seed}-control", seed, control, control_of=f"run{seed}"),
            trained(f"run{seed}-static", seed, static, static_of=f"run{seed}"),
        ]
    runs += [
        trained("other", 9, 0.1, optimizer="adamw"),
        trained("other-control", 9, 0.1, optimizer="adamw", control_of="other"),
    ]
    with Archive(folder) as archive:
        archive.append(LogOfRecords().place([event for run in runs for event in run.events]))
    with open_history(folder) as opened:
        yield opened


def test_a_lower_error_is_a_gain(history):
    found = history.execute(
        "select run_id, random_seed, metric, metric_direction, gain_over_control, gain_over_static from gains "
        "where random_seed < 9 order by 1"
    ).fetchall()

    assert [row[:4] for row in found] == [(f"run{seed}", seed, "mae", "lower is better") for seed in range(3)]
    assert [row[4] for row in found] == pytest.approx([0.20, 0.19, 0.21])
    assert [row[5] for row in found] == pytest.approx([0.01, -0.03, 0.01])


def test_accuracy_is_unknown_where_there_are_no_classes(history):
    query = (
        "select distinct test_accuracy, metric, metric_unit, optimizer, learning_rate from runs where random_seed < 9"
    )
    assert history.execute(query).fetchall() == [(None, "mae", "mm", "sgd", 0.02)]
    assert history.execute(
        "select measured_on, value, stderr from metrics where run_id = 'run0' and surviving order by 1"
    ).fetchall() == [("probe", 0.5, 0.01), ("test", 0.4, 0.01)]


def test_the_report_tells_the_metric_in_its_unit_and_its_spread_over_seeds(history):
    told = report_query(history, "run1")

    assert "came to mae 0.4200 mm on the test set, lower is better, 0.1900 mm better than its control run" in verdict(
        told
    )
    assert "compares by test mae as 0.4200 mm against 0.3900 mm and by test loss" in verdict(told)
    assert over_seeds(told) == (
        "Over 3 random seeds with these settings: mae 0.4100 \N{PLUS-MINUS SIGN} 0.0248 mm; "
        "+0.2000 \N{PLUS-MINUS SIGN} 0.0248 mm against the control runs (better); "
        "-0.0033 \N{PLUS-MINUS SIGN} 0.0574 mm against the static nets at equal FLOPs (within noise) "
        "(lower is better; a gain above 0 is better). \N{PLUS-MINUS SIGN} is half the 95 % interval of the mean."
    )
    text = page(history, "run1")
    assert over_seeds(told) in text
    assert "Mae on the probe set (mm, lower is better)" in of_run.metric(history, {"grown": "run1"}).svg
    assert "right on" not in text
    assert "nats" not in of_run.loss(history, {"grown": "run1"}).svg


def test_runs_with_other_settings_are_not_among_them(history):
    (row,) = [row for row in report_query(history, "run0").alike if row["run_id"] == "run0"]

    assert {each["random_seed"] for each in report_query(history, "run0").alike} == {0, 1, 2}
    assert [each["random_seed"] for each in report_query(history, "other").alike] == [9]
    assert over_seeds(report_query(history, "other")) == ""
    assert json.loads(row["config_json"])["dossier"] == {"outcomes": 0}
    assert report_query(history, "run0-control").alike == []


def test_a_loss_that_was_sampled_has_the_unit_of_the_runs_own_loss(tmp_path):
    """Nats where classes are learnt, as before there were metrics; nothing is claimed of a regression's."""
    metrics = {
        "old": [],
        "classes": [Metric(name="accuracy", unit="%", lower_is_better=False)],
        "text": [Metric(name="loss", unit="nats", lower_is_better=True)],
        "script": [Metric(name="loss", lower_is_better=True)],
        "lengths": [Metric(**MAE)],
        "squares": [Metric(**MAE), Metric(name="loss", unit="mm\N{SUPERSCRIPT TWO}", lower_is_better=True)],
    }
    runs = []
    for run_id, declared in metrics.items():
        run = Trainers(run_id)
        run.events[0].run_started.metrics.extend(declared)
        run.publish(run.trainers[0], StepSampled(loss=1.5, gradient_norm=0.5))
        runs.append(run)
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place([event for run in runs for event in run.events]))

    with open_history(tmp_path / "archive") as opened:
        found = opened.execute("select run_id, unit from telemetry where name = 'loss'").fetchall()
        others = opened.execute("select distinct unit from telemetry where name = 'gradient_norm'").fetchall()

    assert dict(found) == {
        "old": "nats",
        "classes": "nats",
        "text": "nats",
        "script": "",
        "lengths": "",
        "squares": "mm\N{SUPERSCRIPT TWO}",
    }
    assert others == [("",)]
