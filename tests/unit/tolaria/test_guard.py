"""The guard: what must not be stepped on, and what only looks like it."""

from __future__ import annotations

import math

import pytest

from esper.tolaria.guard import Guard


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_trouble_at_once(loss: float) -> None:
    assert Guard(15.0).trouble(loss, 1.0) == "non_finite_loss"


def test_a_gradient_that_is_no_number_is_trouble() -> None:
    assert Guard(15.0).trouble(1.0, math.nan) == "non_finite_gradient"


def test_fifteen_times_the_expected_loss_is_a_divergence() -> None:
    guard = Guard(15.0)
    assert [guard.trouble(2.0, 1.0) for _ in range(5)] == [""] * 5
    assert guard.trouble(29.9, 1.0) == ""
    assert Guard(15.0).trouble(2.0, 1.0) == ""
    fresh = Guard(15.0)
    fresh.trouble(2.0, 1.0)
    assert fresh.trouble(30.1, 1.0) == "divergence"


def test_a_hard_batch_late_in_a_good_run_is_no_divergence() -> None:
    guard = Guard(15.0)
    for loss in (2.0, *[0.001] * 60):
        guard.trouble(loss, 1.0)
    assert guard.trouble(0.5, 1.0) == ""  # 500 times the expected loss, a quarter of the first
    assert guard.trouble(31.0, 1.0) == "divergence"


def test_trouble_does_not_move_the_expectation() -> None:
    guard = Guard(15.0)
    guard.trouble(1.0, 1.0)
    before = guard.state()
    guard.trouble(100.0, 1.0)
    guard.trouble(math.nan, 1.0)
    assert guard.state() == before


def test_negative_losses_have_no_divergence() -> None:
    guard = Guard(15.0)
    assert guard.trouble(-1.0, 1.0) == ""
    assert guard.trouble(50.0, 1.0) == ""


def test_restored_state_judges_the_same() -> None:
    guard, other = Guard(15.0), Guard(15.0)
    for loss in (2.0, 1.0, 0.5):
        guard.trouble(loss, 1.0)
    other.load_state(guard.state())
    assert other.trouble(25.0, 1.0) == guard.trouble(25.0, 1.0) == "divergence"
