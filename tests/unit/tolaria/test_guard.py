"""The guard: what must not be stepped on, and what only looks like it."""

from __future__ import annotations

import math

import pytest

from esper.tolaria.guard import Guard


def make_guard() -> Guard:
    return Guard(15.0, gradient_factor=1e3, clip_norm=10.0)


@pytest.mark.requirement("R-TOL-31")
@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_trouble_at_once(loss: float) -> None:
    assert make_guard().trouble(loss, 1.0) == "non_finite_loss"


def test_a_gradient_that_is_no_number_is_trouble() -> None:
    assert make_guard().trouble(1.0, math.nan) == "non_finite_gradient"


def test_a_gradient_of_another_order_of_magnitude_is_trouble() -> None:
    guard = make_guard()
    assert [guard.trouble(1.0, 0.5) for _ in range(20)] == [""] * 20
    assert guard.trouble(1.0, 499.0) == ""
    assert guard.trouble(1.0, 501.0) == "exploding_gradient"


def test_one_that_grows_step_by_step_is_found_all_the_same() -> None:
    guard = make_guard()
    found = [guard.trouble(1.0, 0.5 * 1.3 ** max(0, step - 20)) for step in range(60)]
    assert found.index("exploding_gradient") == 20 + 27  # the first power of 1.3 above 1,000


def test_large_gradients_are_no_explosion_where_they_are_usual_or_not_clipped() -> None:
    """Losses of a person's own come in any unit; and a network that begins at rest may wake up."""
    guard, asleep = make_guard(), make_guard()
    assert [guard.trouble(1e9, 1e7) for _ in range(50)] == [""] * 50
    assert [asleep.trouble(1.0, 1e-6) for _ in range(20)] == [""] * 20
    assert asleep.trouble(1.0, 9.9) == ""
    assert asleep.trouble(1.0, 10.1) == "exploding_gradient"


@pytest.mark.requirement("R-TOL-31")
def test_fifteen_times_the_expected_loss_is_a_divergence() -> None:
    guard = make_guard()
    assert [guard.trouble(2.0, 1.0) for _ in range(5)] == [""] * 5
    assert guard.trouble(29.9, 1.0) == ""
    assert make_guard().trouble(2.0, 1.0) == ""
    fresh = make_guard()
    fresh.trouble(2.0, 1.0)
    assert fresh.trouble(30.1, 1.0) == "divergence"


def test_a_hard_batch_late_in_a_good_run_is_no_divergence() -> None:
    guard = make_guard()
    for loss in (2.0, *[0.001] * 60):
        guard.trouble(loss, 1.0)
    assert guard.trouble(0.5, 1.0) == ""  # 500 times the expected loss, a quarter of the first
    assert guard.trouble(31.0, 1.0) == "divergence"


def test_trouble_does_not_move_the_expectation() -> None:
    guard = make_guard()
    guard.trouble(1.0, 1.0)
    before = guard.state()
    guard.trouble(100.0, 1.0)
    guard.trouble(math.nan, 1.0)
    assert guard.state() == before


def test_negative_losses_have_no_divergence() -> None:
    guard = make_guard()
    assert guard.trouble(-1.0, 1.0) == ""
    assert guard.trouble(50.0, 1.0) == ""


def test_restored_state_judges_the_same() -> None:
    guard, other = make_guard(), make_guard()
    for loss in (2.0, 1.0, 0.5):
        guard.trouble(loss, 1.0)
    other.load_state(guard.state())
    assert other.trouble(25.0, 1.0) == guard.trouble(25.0, 1.0) == "divergence"
