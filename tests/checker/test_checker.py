"""The history checker finds nothing in today's Esper, and each of seven known faults where it is put back."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from collections import Counter

import pytest

from tests.checker.house import Forker
from tests.checker.plan import SHORT, Planner
from tests.checker.run import check

GIVEN = os.environ.get("ESPER_CHECKER_SEED")
"""Repeats the operations and faults of a run that printed it."""
SEED = int(GIVEN or secrets.randbelow(2**31))
"""Another for every test run, which prints it."""
OPERATIONS, FAULTS = 200, 20
SOAK_S = float(os.environ.get("ESPER_CHECKER_SOAK_S") or 3600.0)

FOUND_BY = {
    "producer ids": {"lost"},
    "manifest": {"lost", "needless"},
    "retired key": {"forged"},
    "second start": {"one_owner"},
    "bad batch": {"stuck"},
    "projection": {"projected"},
    "object": {"kept"},
}
"""The rules of which one must complain of each known fault, once it is put back."""


@pytest.fixture(scope="module")
def forker(tmp_path_factory):
    with Forker(tmp_path_factory.mktemp("forker")) as found:
        yield found


def told(seed, found):
    return f"ESPER_CHECKER_SEED={seed}: {found.summary()}\n" + "\n".join(found.complaints)


@pytest.mark.timeout(180)
def test_nothing_is_lost_doubled_or_let_in_whatever_happens(forker, tmp_path, capsys):
    found = check(tmp_path, forker, Planner(SEED).plan(OPERATIONS, FAULTS))
    with capsys.disabled():
        sys.stderr.write(f"\n{told(SEED, found)}\n")  # a worker's stdout is the way to its master

    assert found.complaints == [], told(SEED, found)
    assert (found.operations >= OPERATIONS, found.faults >= FAULTS) == (True, True)


def test_a_seed_repeats_its_operations_and_faults():
    assert Planner(7).plan(OPERATIONS, FAULTS) == Planner(7).plan(OPERATIONS, FAULTS)
    assert Planner(7).plan(OPERATIONS, FAULTS) != Planner(8).plan(OPERATIONS, FAULTS)


@pytest.mark.parametrize("cause", SHORT)
def test_a_known_fault_that_is_put_back_is_found(forker, tmp_path, cause):
    found = check(tmp_path, forker, SHORT[cause], mutation=cause)

    assert FOUND_BY[cause] & {line.partition(":")[0] for line in found.complaints}, found.complaints


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S + 600)
def test_an_hour_of_seeds(forker, tmp_path, capsys):
    """Others every time, one after the other, each printed; all that complained are told of in the end."""
    until, seed, complained, sums = time.monotonic() + SOAK_S, int(GIVEN or secrets.randbelow(2**31)), [], Counter()
    while time.monotonic() < until:
        folder = tmp_path / str(seed)
        folder.mkdir()
        found = check(folder, forker, Planner(seed).plan(4 * OPERATIONS, 3 * FAULTS))
        with capsys.disabled():
            sys.stderr.write(f"{told(seed, found)}\n")
        sums.update(operations=found.operations, faults=found.faults, events=found.acknowledged, seeds=1)
        complained += [told(seed, found)] if found.complaints else []
        if not found.complaints:
            shutil.rmtree(folder)
        seed += 1
    with capsys.disabled():
        sys.stderr.write(f"{dict(sums)}, {len(complained)} seeds complained\n")

    assert complained == [], "\n".join(complained)


@pytest.mark.soak
@pytest.mark.parametrize("cause", SHORT)
def test_a_short_plan_ends_without_complaints(forker, tmp_path, cause):
    """So what is found with a fault put back is that fault."""
    assert check(tmp_path, forker, SHORT[cause]).complaints == []
