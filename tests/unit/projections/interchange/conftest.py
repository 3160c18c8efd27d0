"""The small history's grown run, taken once for all of them."""

from __future__ import annotations

import pytest

from projections import open_sample, questions
from projections.interchange.figures import Taken, taken


@pytest.fixture(scope="session")
def run() -> Taken:
    """What it came to."""
    with open_sample() as history:
        return taken(history, questions.grown_run(history))
