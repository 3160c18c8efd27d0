"""The small history that Esper carries, and the report of one of its runs."""

from __future__ import annotations

import pytest

from projections import open_sample
from projections.report import page


@pytest.fixture(scope="module")
def small():
    with open_sample() as history:
        yield history


@pytest.fixture(scope="module")
def runs(small):
    """The runs of the small history by their tasks and policies."""
    found = small.execute(
        "select task || ' ' || if(parent_run_id is null, policy, 'fork'), run_id from runs"
    ).fetchall()
    return dict(found)


@pytest.fixture(scope="module")
def grown(small, runs):
    """The report of the run with a control."""
    return page(small, runs["digits heuristic"])
