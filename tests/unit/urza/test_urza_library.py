"""Urza's counter: what it serves, from where, and that every kind of trouble ends with the identity in time."""

from __future__ import annotations

import time

import pytest

from contracts.leyline.v1.leyline_pb2 import (
    CIRCUIT_BREAKER_STATE_CLOSED,
    CIRCUIT_BREAKER_STATE_HALF_OPEN,
    CIRCUIT_BREAKER_STATE_OPEN,
)
from esper.errors import InvalidInput
from esper.urza.artifact import Kernel
from esper.urza.library import UrzaLibrary, Wanted
from esper.urza.version import DAY_MS, Query, archived


@pytest.fixture
def open_library(kernels, clock):
    """A library over a catalogue, closed at the end."""
    opened = []

    def make(catalogue, **settings):
        opened.append(UrzaLibrary(catalogue, kernels, monotonic=clock, **settings))
        return opened[-1]

    yield make
    for library in opened:
        library.close()


@pytest.fixture
def wanted(place):
    return Wanted("BP009", place)


def test_the_first_time_from_the_store_then_from_memory(open_library, make_catalogue, forge, wanted):
    version = forge.make()
    library = open_library(make_catalogue([version]))

    first, second = library.serve(wanted, now_ms=0), library.serve(wanted, now_ms=0)

    assert (first.cached, second.cached) == (False, True)
    assert (first.version, first.fallback, first.kernel.artifact_ref) == (version, "", version.artifact_ref)
    assert second.kernel == first.kernel
    assert library.counts == {"miss": 1, "hit": 1}


def test_what_is_not_stored_is_the_identity(open_library, make_catalogue, place):
    catalogue = make_catalogue([])
    library = open_library(catalogue)

    for _ in range(5):  # asking for what is not there is nobody's failure
        served = library.serve(Wanted("BP001", place), now_ms=0)

    assert (served.kernel.is_identity, served.fallback, served.refusal) == (True, "artifact_not_found", None)
    assert library.breaker_state == CIRCUIT_BREAKER_STATE_CLOSED


def test_a_copy_that_went_bad_in_memory_is_evicted_and_the_stored_one_served_next(
    open_library, make_catalogue, forge, wanted, kernels
):
    version = forge.make()
    library = open_library(make_catalogue([version]))
    good = library.serve(wanted, now_ms=0).kernel
    bad = Kernel(good.artifact_ref, good.content, good.manifest, good.weights[:-1] + b"\x01", good.cache)
    kernels.memory[version.artifact_ref] = bad

    refused, after = library.serve(wanted, now_ms=0), library.serve(wanted, now_ms=0)

    assert refused.kernel.is_identity
    assert refused.refusal is not None
    assert refused.refusal.reason == "checksum_mismatch"
    assert (after.kernel, after.cached) == (good, False)
    assert library.counts["refused.checksum_mismatch"] == kernels.memory.evictions == 1


@pytest.mark.requirement("R-URZA-3")
def test_a_damaged_artifact_is_never_served(open_library, make_catalogue, forge, damage, wanted):
    version = forge.make()
    damage(version.artifact_ref)
    library = open_library(make_catalogue([version]))

    for _ in range(2):
        served = library.serve(wanted, now_ms=0)
        assert (served.kernel.is_identity, served.fallback) == (True, "refused")
    assert library.counts == {"refused.checksum_mismatch": 2}


@pytest.mark.requirement("R-URZA-10")
def test_a_query_that_hangs_ends_with_the_identity_in_time(open_library, make_catalogue, wanted):
    catalogue = make_catalogue([], hangs=True)
    library = open_library(catalogue, limit_s=0.05)
    started = time.monotonic()

    served = library.serve(wanted, now_ms=0)

    assert time.monotonic() - started < 2.0
    assert (served.kernel.is_identity, served.fallback) == (True, "timeout")
    catalogue.hangs = False
    assert library.query(Query(), now_ms=0).fallback == ""


@pytest.mark.requirement("R-URZA-11")
def test_three_failures_open_the_breaker_and_a_probe_after_30_s_closes_it(
    open_library, make_catalogue, forge, wanted, place, clock
):
    catalogue = make_catalogue([forge.make()])
    library = open_library(catalogue)
    library.serve(wanted, now_ms=0)
    catalogue.error = RuntimeError("the disk is gone")
    assert [library.serve(wanted, now_ms=0).fallback for _ in range(3)] == ["catalogue_failed"] * 3
    asked = catalogue.asked

    remembered, unknown = library.serve(wanted, now_ms=0), library.serve(Wanted("BP010", place), now_ms=0)

    assert catalogue.asked == asked
    assert (remembered.fallback, remembered.cached) == ("", True)
    assert (unknown.kernel.is_identity, unknown.fallback) == (True, "breaker_open")
    assert library.query(Query(), now_ms=0).fallback == "breaker_open"
    catalogue.error = None
    clock.now_s += 30.0
    assert library.serve(wanted, now_ms=0).fallback == ""
    assert [change.to_state for change in library.take_changes()] == [
        CIRCUIT_BREAKER_STATE_OPEN,
        CIRCUIT_BREAKER_STATE_HALF_OPEN,
        CIRCUIT_BREAKER_STATE_CLOSED,
    ]
    assert library.take_changes() == []


@pytest.mark.requirement("R-URZA-12")
def test_a_probe_that_fails_begins_five_conservative_minutes(open_library, make_catalogue, wanted, clock):
    catalogue = make_catalogue([], error=RuntimeError("still gone"))
    library = open_library(catalogue)
    for _ in range(3):
        library.serve(wanted, now_ms=0)
    clock.now_s += 30.0
    assert library.serve(wanted, now_ms=0).fallback == "catalogue_failed"
    catalogue.error = None

    clock.now_s += 299.0
    assert library.conservative
    assert library.serve(wanted, now_ms=0).fallback == "conservative"
    clock.now_s += 1.0
    assert not library.conservative
    assert library.serve(wanted, now_ms=0).fallback == "artifact_not_found"


@pytest.mark.requirement("R-URZA-11")
def test_answers_above_400_ms_count_as_failures(open_library, make_catalogue, forge, wanted, clock):
    catalogue = make_catalogue([forge.make()])
    library = open_library(catalogue)
    find = catalogue.find

    def slowly(query):
        clock.now_s += 0.45
        return find(query)

    catalogue.find = slowly

    assert [library.serve(wanted, now_ms=0).fallback for _ in range(3)] == ["", "", ""]
    assert library.breaker_state == CIRCUIT_BREAKER_STATE_OPEN


@pytest.mark.requirement("R-URZA-16")
@pytest.mark.parametrize(("state", "days"), [("validated", 365), ("deprecated", 90), ("rejected", 30)])
def test_a_version_is_kept_as_long_as_its_state_says(make_version, state, days):
    version = make_version(state=state, since_ms=1_000)

    assert not archived(version, 1_000 + days * DAY_MS)
    assert archived(version, 1_001 + days * DAY_MS)


def test_an_active_version_is_kept_for_ever_and_an_archived_one_is_not_served(
    open_library, make_catalogue, make_version, place
):
    library = open_library(make_catalogue([make_version(state="rejected", since_ms=0)]))

    assert not archived(make_version(), 10**15)
    assert library.serve(Wanted("BP009", place), now_ms=31 * DAY_MS).fallback == "artifact_not_found"
    assert library.query(Query(), now_ms=31 * DAY_MS).versions == ()
    assert len(library.query(Query(), now_ms=29 * DAY_MS).versions) == 1


@pytest.mark.requirement("R-URZA-13")
@pytest.mark.parametrize("limit", [0, 101])
def test_a_query_returns_1_to_100_versions(limit):
    with pytest.raises(InvalidInput):
        Query(limit=limit)
