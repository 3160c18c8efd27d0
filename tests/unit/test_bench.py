"""The benchmarks judge as they say: limits, broken figures, hooks that should not be there, loops that compare."""

from __future__ import annotations

import json
import math

import pytest
from torch import nn

from esper.testing import MemoryLog
from projections import questions
from tests.bench import against, archive_history, overhead
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


def test_the_bound_of_a_slowdown_is_that_of_students_t():
    """The t of 4 values at 97.5 % is 3.1824; their logarithms are 0.01 and 0.03 twice, 0.0115 their deviation."""
    mean, bound = overhead.mean_and_bound([math.exp(0.01), math.exp(0.03)] * 2)

    assert mean == pytest.approx(100 * math.expm1(0.02))
    assert bound == pytest.approx(100 * math.expm1(0.02 + 3.1824 * 0.011547 / 2), rel=1e-4)


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
    """As above: logarithms of 0.01 and 0.03 twice, t of 4 values 3.1824, deviation 0.011547."""
    there = [1.0, 2.0, 3.0, 4.0]
    here = [other * math.exp(log) for other, log in zip(there, [0.01, 0.03] * 2, strict=True)]

    found = against.ratio(here, there)

    half = 3.1824 * 0.011547 / 2
    assert [math.log(each) for each in (found.low, found.mean, found.high)] == pytest.approx(
        [0.02 - half, 0.02, 0.02 + half], abs=1e-5
    )
    assert against.ratio([2.0], [1.0]) == against.Ratio(pytest.approx(2.0), 0.0, math.inf)


@pytest.mark.parametrize(
    ("slower", "verdict"),
    [((1.0, 1.01, 1.0, 1.01), "ok"), ((1.2, 1.21, 1.2, 1.21), "FAILED"), ((0.9, 1.2, 0.9, 1.2), "")],
)
def test_a_figure_is_judged_where_its_whole_interval_lies_on_one_side_of_the_limit(slower, verdict):
    [row] = against.rows({"drain": (list(slower), [1.0] * 4)}, limit=1.03)

    assert row.verdict == verdict
    assert ("is open" in row.fixture) == (not verdict)
