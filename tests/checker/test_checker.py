"""The history checker finds nothing in today's Esper, and each of five known faults where it is put back."""

from __future__ import annotations

import pytest

from streams.records import partition_of
from tests.checker.house import Forker
from tests.checker.plan import BESIDE, SHORT
from tests.checker.run import check

FOUND_BY = {
    "producer ids": "lost",
    "manifest": "lost",
    "retired key": "forged",
    "second start": "one_owner",
    "bad batch": "stuck",
}


@pytest.fixture(scope="module")
def forker(tmp_path_factory):
    with Forker(tmp_path_factory.mktemp("forker")) as found:
        yield found


def test_two_runs_of_the_short_plans_share_a_partition():
    assert len({partition_of(run.encode()) for run in BESIDE}) == 1


@pytest.mark.parametrize("cause", SHORT)
def test_a_short_plan_ends_without_complaints(forker, tmp_path, cause):
    assert check(tmp_path, forker, SHORT[cause]).complaints == []
