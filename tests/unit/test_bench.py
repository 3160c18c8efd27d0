"""The benchmarks judge as they say: limits, broken figures, hooks that should not be there, loops that compare."""

from __future__ import annotations

import json
import math
import sys

import pytest
from torch import nn

from esper.testing import MemoryLog
from projections import questions
from tests.bench import against, archive_history, overhead, script_step
from tests.bench.ratio import Ratio, ratio
from tests.bench.table import Row, failed, line


@pytest.mark.parametrize(
    ("measured", "limit", "at_least", "verdict"),
    [
        (50.0, 50.0, False, "ok"),
        (50.1, 50.0, False, "FAILED"),
        (50.0, 50.0, True, "ok"),
        (49.9, 50.0, True, "FAILED"),
        (1e9, None, False, ""),
        (math.nan, None, False, "FAILED"),
        (math.nan, 50.0, True, "FAILED"),
    ],
)
def test_a_limit_is_kept_up_to_itself_and_a_figure_that_is_missing_has_failed(measured, limit, at_least, verdict):
    row = Row("wait", measured, "ms", "none", limit, at_least=at_least)

    assert row.verdict == verdict
    assert failed([Row("other", 1.0, "ms", "none", 2.0), row]) == (verdict == "FAILED")
    assert json.loads(json.dumps(row.to_dict(), allow_nan=False))["verdict"] == verdict


def test_a_row_says_limit_figure_fixture_and_verdict():
    row = Row("events", 123_456.7, "events/s", "one process", 1e5, at_least=True)

    assert line(row) == "| events | ≥ 100,000 events/s | 123,457 events/s | one process | ok |"


def test_code_on_a_host_is_found():
    def host() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), nn.Tanh())

    hooked, replaced, wrapped = host(), host(), host()
    hooked[0].register_forward_hook(lambda *_: None)
    replaced[1] = nn.ReLU()
    wrapped[0].forward = wrapped[0].forward

    assert overhead.foreign_code(host(), host()) == 0
    assert all(overhead.foreign_code(each, host()) > 0 for each in (hooked, replaced, wrapped))


@pytest.mark.requirement("R-TOL-5")
def test_the_two_loops_take_turns_and_learn_the_same():
    found = overhead.compare("spirals", MemoryLog(), pairs=5)

    assert found.pairs == 5
    assert 0 < found.plain_step_us < 1e6
    assert found.bound >= found.mean
    assert overhead.foreign_code(found.host, overhead.load_task("spirals").make_host()) == 0


def test_the_archive_that_is_asked_can_be_made_and_has_what_it_is_asked_for(tmp_path):
    rows = archive_history.queried(3_000, tmp_path)

    assert len(rows) == len(archive_history.FOLDS) + len(questions.names())
    assert not any(math.isnan(row.measured) for row in rows)


def test_a_tree_against_another_has_the_ratio_of_pairs_and_students_interval():
    """Logarithms of 0.01 and 0.03 twice: the t of 4 values at 97.5 % is 3.1824, the deviation 0.011547."""
    there = [1.0, 2.0, 3.0, 4.0]
    here = [other * math.exp(log) for other, log in zip(there, [0.01, 0.03] * 2, strict=True)]

    found = ratio(here, there)

    half = 3.1824 * 0.011547 / 2
    assert [math.log(each) for each in (found.low, found.mean, found.high)] == pytest.approx(
        [0.02 - half, 0.02, 0.02 + half], abs=1e-5
    )
    assert ratio([2.0], [1.0]) == Ratio(pytest.approx(2.0), 0.0, math.inf)


def test_rows_of_benchmarks_are_compared_by_what_they_cost(tmp_path):
    """A rate by what one of them takes, a time as it is; what one tree lacks, or a figure of 0, is left out."""
    here, there = tmp_path / "here", tmp_path / "there"
    for tree, rows in (
        (here, "Row('a', 50.0, 'steps/s'), Row('b', 3.0, 'ms'), Row('c', 1.0, 's'), Row('d', 0, 's')"),
        (there, "Row('a', 100.0, 'steps/s'), Row('b', 6.0, 'ms'), Row('d', 1, 's')"),
    ):
        (tree / "tests" / "bench").mkdir(parents=True)
        (tree / ".venv" / "bin").mkdir(parents=True)
        (tree / ".venv" / "bin" / "python").symlink_to(sys.executable)
        said = "from collections import namedtuple\nRow = namedtuple('Row', 'what measured unit')\n"
        (tree / "tests" / "bench" / "quick.py").write_text(f"{said}def rows():\n    return [{rows}]\n")

    costs = against.benchmarked(here, there, ["quick"], runs=2)

    assert {what: ratio(*both).mean for what, both in costs.items()} == pytest.approx({"a": 2.0, "b": 0.5})


@pytest.mark.parametrize(
    ("slower", "verdict"),
    [((1.0, 1.01, 1.0, 1.01), "ok"), ((1.2, 1.21, 1.2, 1.21), "FAILED"), ((0.9, 1.2, 0.9, 1.2), "")],
)
def test_a_figure_is_judged_where_its_whole_interval_lies_on_one_side_of_the_limit(slower, verdict):
    [row] = against.rows({"drain": (list(slower), [1.0] * 4)}, limit=1.03)

    assert row.verdict == verdict
    assert ("is open" in row.fixture) == (not verdict)


def test_three_loops_take_turns_and_learn_the_same(tmp_path):
    rounds: list[int] = []
    plain, esperal, telling = script_step.race(script_step.SHORT, 2, tmp_path, rounds.append)

    assert rounds == [0, 1, 2]
    assert [len(each.step_us) for each in (plain, esperal, telling)] == [6, 6, 6]
    assert script_step.Added.of(esperal, plain).low == -math.inf  # two rounds have no interval


def test_what_is_added_is_free_of_what_drifts_over_the_rounds():
    plain, other = script_step.Loop(2), script_step.Loop(2)
    plain.step_us = [200.0 + number for number in range(42)]
    other.step_us = [each + 8.0 + number % 4 for number, each in enumerate(plain.step_us)]
    added = script_step.Added.of(other, plain)

    assert (added.low, added.high) == (8.5, 10.5)
    assert added.low <= added.median <= added.high
