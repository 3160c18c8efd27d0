"""The breaker's three states, each with a clock that the test moves."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.leyline.v1 import leyline_pb2
from esper.errors import InvalidInput
from esper.leyline.breaker import CircuitBreaker

UNKNOWN = leyline_pb2.CIRCUIT_BREAKER_STATE_UNKNOWN
CLOSED = leyline_pb2.CIRCUIT_BREAKER_STATE_CLOSED
OPEN = leyline_pb2.CIRCUIT_BREAKER_STATE_OPEN
HALF_OPEN = leyline_pb2.CIRCUIT_BREAKER_STATE_HALF_OPEN


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Now."""
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker("test", failures=3, window_s=30, reset_s=10, successes=2, monotonic=clock)


def trip(breaker):
    return [change for _ in range(3) for change in breaker.failed("boom")]


@pytest.mark.requirement("R-KAS-26")
def test_it_opens_at_the_third_failure_within_the_window(breaker):
    assert breaker.failed("a") == []
    assert breaker.failed("b") == []
    assert breaker.allows

    (change,) = breaker.failed("c")

    assert not breaker.allows
    assert (change.breaker, change.from_state, change.to_state) == ("test", CLOSED, OPEN)
    assert (change.reason, change.failures) == ("c", 3)


def test_a_success_between_failures_counts_only_where_they_must_come_in_a_row(clock):
    strict, loose = (
        CircuitBreaker("test", failures=3, window_s=30, in_a_row=in_a_row, monotonic=clock)
        for in_a_row in (True, False)
    )
    for breaker in (strict, loose):
        for _ in range(3):
            breaker.failed("boom")
            breaker.succeeded()

    assert strict.allows
    assert not loose.allows

    trip(strict)

    assert not strict.allows


def test_failures_spread_wider_than_the_window_do_not_open_it(breaker, clock):
    for _ in range(10):
        clock.now += 16

        assert breaker.failed("slow") == []
    assert breaker.allows


def test_the_window_includes_its_end(breaker, clock):
    breaker.failed("a")
    breaker.failed("b")
    clock.now += 30

    assert breaker.failed("c")[0].to_state == OPEN


def test_a_success_does_not_forgive_failures_of_the_window(breaker):
    breaker.failed("a")
    breaker.failed("b")

    assert breaker.succeeded() == []
    assert breaker.failed("c")[0].to_state == OPEN


def test_it_waits_open_and_then_tries(breaker, clock):
    trip(breaker)
    clock.now += 9.9

    assert breaker.poll() == []
    assert not breaker.allows

    clock.now += 0.1

    assert [(c.from_state, c.to_state) for c in breaker.poll()] == [(OPEN, HALF_OPEN)]
    assert breaker.allows
    assert breaker.poll() == []


def test_enough_trials_in_a_row_close_it_with_a_clean_slate(breaker, clock):
    trip(breaker)
    clock.now += 10
    breaker.poll()

    assert breaker.succeeded() == []
    assert breaker.succeeded()[0].to_state == CLOSED
    assert breaker.failed("a") == []
    assert breaker.failed("b") == []


@pytest.mark.requirement("R-KAS-26")
def test_one_failed_trial_reopens_it_for_the_whole_time(breaker, clock):
    trip(breaker)
    clock.now += 10
    breaker.poll()
    breaker.succeeded()

    assert [(c.from_state, c.to_state) for c in breaker.failed("again")] == [(HALF_OPEN, OPEN)]

    clock.now += 9

    assert breaker.poll() == []

    clock.now += 1
    breaker.poll()

    assert breaker.succeeded() == []


def test_a_failure_while_open_changes_nothing_and_prolongs_nothing(breaker, clock):
    trip(breaker)
    clock.now += 5

    assert breaker.failed("more") == []

    clock.now += 5

    assert breaker.poll()[0].to_state == HALF_OPEN


def test_a_late_result_meets_the_state_that_time_has_made(breaker, clock):
    trip(breaker)
    clock.now += 10

    assert [c.to_state for c in breaker.failed("trial")] == [HALF_OPEN, OPEN]


def test_a_command_can_put_it_into_any_state(breaker):
    assert breaker.force(OPEN, "asked")[0].reason == "asked"
    assert breaker.force(OPEN, "again") == []
    assert breaker.force(CLOSED, "done")[0].to_state == CLOSED
    with pytest.raises(InvalidInput, match="no state"):
        breaker.force(UNKNOWN, "nonsense")


@pytest.mark.parametrize("wrong", [{"failures": 0}, {"successes": 0}, {"window_s": 0}, {"reset_s": -1}])
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(InvalidInput, match="breaker odd"):
        CircuitBreaker("odd", monotonic=Clock(), **wrong)


@pytest.mark.requirement("R-KAS-26")
def test_a_decision_takes_less_than_a_hundredth_of_a_millisecond():
    """The best of some thousands: a busy machine makes single ones longer, never all."""
    breaker = CircuitBreaker("quick", failures=3, monotonic=time.monotonic)

    def decisions():
        started = time.perf_counter()
        breaker.poll()
        breaker.failed("x")
        breaker.succeeded()
        return time.perf_counter() - started

    assert min(decisions() for _ in range(3_000)) / 3 < 1e-5


@given(st.lists(st.sampled_from(["fail", "pass", "wait", "poll"]), max_size=60))
def test_the_changes_tell_the_whole_story(steps):
    """Whoever folds the changes knows the breaker's state, and only the three legal kinds of move occur."""
    clock = Clock()
    breaker = CircuitBreaker("test", failures=2, window_s=10, reset_s=5, successes=1, monotonic=clock)
    told = CLOSED
    for step in steps:
        clock.now += {"wait": 3.0}.get(step, 0.1)
        changes = {"fail": lambda: breaker.failed("x"), "pass": breaker.succeeded}.get(step, breaker.poll)()
        for change in changes:
            assert change.from_state == told
            assert (told, change.to_state) in {
                (CLOSED, OPEN),
                (OPEN, HALF_OPEN),
                (HALF_OPEN, OPEN),
                (HALF_OPEN, CLOSED),
            }
            told = change.to_state

        assert breaker.state == told
