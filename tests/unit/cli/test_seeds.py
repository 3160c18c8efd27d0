"""`esper run --seeds`: one table over random seeds, with intervals, and a verdict that says what is within noise."""

from __future__ import annotations

import math

import pytest

from contracts.leyline.v1.event_pb2 import MetricValue
from esper.cli.run_view import RunView
from esper.cli.seeds import Seeds
from esper.cli.summary import Cost, Summary
from esper.spread import spread
from projections.testing import Trainers


def ended(run_id: str, value: float, unit: str = "mm") -> RunView:
    """A run that completed with this test value: accuracy in per cent, or an error in mm."""
    run = Trainers(run_id)
    run.complete_epoch(0)
    run.finish(0)
    view = RunView.of(run_id, run.events)
    name = "accuracy" if unit == "%" else "mae"
    view.finished.metrics.append(MetricValue(name=name, unit=unit, lower_is_better=unit != "%", value=value))
    return view


def told(grown: list[float], control: list[float | None], static: list[float | None], unit: str = "mm") -> Seeds:
    def beside(name: str, values: list[float | None], seed: int) -> RunView | None:
        value = values[seed]
        return None if value is None else ended(f"{name}{seed}", value, unit)

    summaries = [
        Summary(
            ended(f"grown{seed}", value, unit),
            beside("control", control, seed),
            seed,
            {"p50": 1.0, "p99": 2.0},
            Cost(1.0, 0.5, 0.9, 2.0, 3.0),
            "d",
            static=beside("static", static, seed),
        )
        for seed, value in enumerate(grown)
    ]
    return Seeds(summaries, tuple(range(len(grown))))


NONE: list[float | None] = [None] * 5


def test_means_have_half_of_their_interval_beside_them():
    """Student's t for 5 values is 2.776; of 1 to 5 the standard error is 0.7071."""
    found = spread([1.0, 2.0, 3.0, 4.0, 5.0])

    assert found is not None
    assert (found.mean, found.count) == (3.0, 5)
    assert found.half == pytest.approx(2.776 * math.sqrt(2.5 / 5))
    assert spread([4.0, math.nan]) == spread([4.0])
    assert spread([]) is None


@pytest.mark.parametrize(
    ("static", "growth", "said"),
    [
        ([0.50, 0.52, 0.51, 0.50, 0.52], "paid", "growth paid, by the test mae, against static nets of as many FLOPs"),
        ([0.30, 0.32, 0.31, 0.30, 0.32], "did not pay", "growth did not pay, by the test mae"),
        ([0.30, 0.50, 0.30, 0.50, 0.41], "within noise", "growth made no difference beyond noise"),
    ],
)
def test_growth_is_judged_seed_by_seed_with_the_right_sign(static, growth, said):
    """An error: lower is better, so a static net with a higher one makes growth pay."""
    seeds = told([0.40, 0.42, 0.41, 0.40, 0.42], [0.60, 0.61, 0.60, 0.62, 0.61], static)
    text, told_json = seeds.text(), seeds.to_json()

    assert said in text
    assert told_json["growth"] == growth
    assert "test mae (mm, lower is better)" in text
    assert "gain over the control runs: +0.1980 \N{PLUS-MINUS SIGN}" in text
    assert told_json["gain_over_control"]["mean"] == pytest.approx(0.198)
    assert told_json["test_metric"]["grown"]["values"] == [0.40, 0.42, 0.41, 0.40, 0.42]
    assert [run["seed"] for run in told_json["runs"]] == [0, 1, 2, 3, 4]


def test_gains_of_per_cent_are_points_and_a_worse_one_has_a_minus():
    seeds = told([90.0, 91.0, 90.5], [92.0, 93.5, 92.0], NONE, unit="%")

    assert "gain over the control runs: -2.00 \N{PLUS-MINUS SIGN} 1.24 points (n = 3): worse" in seeds.text()
    assert "growth did not pay, by the test accuracy, against the control runs" in seeds.text()


def test_a_run_that_did_not_complete_is_named():
    seeds = told([0.4, 0.5], [0.6, 0.6], NONE)

    assert "seeds 7 did not complete" in Seeds(seeds.summaries, (0, 1, 7)).text()
    assert Seeds([], (1, 2)).text() == "no run completed, so there is nothing to compare"
    assert Seeds([], (1, 2)).to_json()["completed"] == []


def test_one_pair_says_nothing_about_noise():
    seeds = told([0.4], [0.6], NONE)

    assert seeds.growth is None
    assert "which says nothing about noise" in seeds.text()
