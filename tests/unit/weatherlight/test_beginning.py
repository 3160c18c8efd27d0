"""How a run may begin: a run id that the history has is no new one."""

from __future__ import annotations

import pytest

from esper.errors import InvalidInput
from esper.weatherlight.beginning import Plan, check_new
from projections.archive_writer import Archive
from projections.testing import LogOfRecords, Trainers


def test_an_id_that_the_archive_has_is_not_given_twice(tmp_path):
    check_new(tmp_path / "archive", "k3f9x2qa")
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(Trainers("k3f9x2qa").events))

    check_new(tmp_path / "archive", "another")
    with pytest.raises(InvalidInput, match=r"run k3f9x2qa was started before: .* `esper resume k3f9x2qa`"):
        check_new(tmp_path / "archive", "k3f9x2qa")


def test_a_plan_goes_to_the_trainers_process_and_comes_back():
    plan = Plan("fork", "builtin:digits", "parent", 12, "cull s2", fresh=True)

    assert Plan.from_json(plan.to_json()) == plan
    assert not Plan().fresh, "whoever starts a trainer by hand may give it an id that there is"
