"""The records of the story that Esper carries, and what every projection makes of them."""

from __future__ import annotations

import pytest

from projections.projection import Projection
from projections.records import StoredRecord
from projections.registry import PROJECTIONS
from projections.testing import LogOfRecords, story
from tests.unit.projections import keep_log


@pytest.fixture(scope="session")
def records() -> list[StoredRecord]:
    return LogOfRecords().place(story())


@pytest.fixture(scope="session")
def expected(records) -> dict[str, dict]:
    """What each projection makes of the sample."""
    return keep_log.tables(records)


@pytest.fixture(params=PROJECTIONS.values(), ids=list(PROJECTIONS))
def projection(request) -> Projection:
    """Each of them in turn."""
    return request.param
