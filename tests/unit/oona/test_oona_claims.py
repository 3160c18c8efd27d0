"""Claims: the lower offset wins, a higher incarnation takes over, and whoever lost hears of it."""

from __future__ import annotations

import threading

import pytest

from contracts.leyline.v1.event_pb2 import RunResumed, RunStarted
from esper.errors import LogUnavailable, Superseded
from esper.leyline.envelope import Event, new_event
from streams.claims import Claims


def claim(incarnation: int, name: bytes) -> Event:
    return new_event(
        RunResumed(), event_id=name * 16, run_id="run", producer="trainer", recorded_at_ns=1, incarnation=incarnation
    )


def test_a_run_that_nobody_claims_is_its_trainers():
    claims = Claims("run")

    claims.check()


def test_a_claim_that_comes_back_first_is_good():
    claims = Claims("run")
    claims.make(claim(2, b"a"))
    assert not claims.seen(claim(2, b"a"))
    claims.await_own(1.0)
    assert not claims.seen(claim(2, b"b"))  # another process, a moment later

    claims.check()


def test_of_two_claims_the_one_behind_has_lost():
    claims = Claims("run")
    claims.make(claim(2, b"b"))

    assert claims.seen(claim(2, b"a"))
    with pytest.raises(
        Superseded, match=r"run run was taken over by another process that resumed it \(incarnation 2\)"
    ):
        claims.await_own(1.0)


def test_a_claim_that_lay_there_before_ours_was_made_counts_too():
    claims = Claims("run")
    claims.seen(claim(2, b"a"))
    claims.make(claim(2, b"b"))

    with pytest.raises(Superseded):
        claims.check()


def test_a_higher_claim_takes_the_run_over():
    claims = Claims("run")
    claims.make(claim(2, b"a"))
    claims.seen(claim(2, b"a"))

    assert claims.seen(claim(3, b"b"))
    with pytest.raises(Superseded):
        claims.check()


def test_one_may_take_over_from_a_claim_that_one_knows():
    claims = Claims("run")
    claims.seen(claim(2, b"a"))
    claims.make(claim(3, b"b"))
    claims.seen(claim(3, b"b"))

    claims.await_own(1.0)


def test_a_claim_that_does_not_come_back_is_said():
    claims = Claims("run")
    claims.make(claim(2, b"a"))

    with pytest.raises(LogUnavailable, match="did not come back within 0 s"):
        claims.await_own(0.01)


def start(name: bytes) -> Event:
    return new_event(
        RunStarted(), event_id=name * 16, run_id="run", producer="trainer", recorded_at_ns=1, incarnation=1, sequence=1
    )


def test_of_two_starts_the_one_behind_has_lost():
    first, second = Claims("run"), Claims("run")
    for claims, own in ((first, b"a"), (second, b"b")):
        claims.make(start(own))
        for event in (start(b"a"), start(b"b")):  # both see the log in its order
            claims.seen(event)

    first.await_own(1.0)
    with pytest.raises(Superseded, match=r"run run was started before, by another process; .* give it another id"):
        second.await_own(1.0)


def test_a_run_that_was_started_long_ago_is_not_started_again():
    claims = Claims("run")
    claims.seen(start(b"a"))
    claims.make(start(b"b"))

    with pytest.raises(Superseded, match="started before"):
        claims.check()


def test_whoever_waits_is_woken():
    claims = Claims("run")
    claims.make(claim(2, b"a"))
    other = threading.Timer(0.05, claims.seen, [claim(2, b"a")])
    other.start()

    claims.await_own(20.0)
    other.join()
