"""The published limits, number by number (R-LEY-14, R-LEY-15)."""

from __future__ import annotations

import pytest

from esper.errors import InvalidInput
from esper.leyline import limits


def values(message) -> list[float]:
    return [round(value, 6) for _, value in message.ListFields()]


@pytest.mark.requirement("R-LEY-15")
def test_the_performance_budgets_are_the_published_ones_in_tag_order():
    assert values(limits.performance_budgets()) == [18, 12, 3, 2, 500, 12, 80, 20, 1000, 30, 1, 2, 5, 60, 30]


@pytest.mark.requirement("R-TOL-39", "R-LEY-15")
def test_the_memory_shares_are_the_published_ones_in_tag_order():
    assert values(limits.memory_budgets()) == [0.40, 0.25, 0.15, 0.08, 0.05, 0.05, 0.02, 0.03, 0.02]


@pytest.mark.requirement("R-LEY-15")
def test_the_system_limits_are_the_published_ones_in_tag_order():
    assert values(limits.system_limits()) == [100, 280, 10_000, 3, 10_000, 4, 50, 3, 100, 30]


def test_every_field_of_the_three_messages_has_a_value():
    for message in (limits.performance_budgets(), limits.memory_budgets(), limits.system_limits()):
        assert len(message.ListFields()) == len(message.DESCRIPTOR.fields)


@pytest.mark.requirement("R-LEY-14")
def test_the_base_shares_fill_the_memory_and_no_more():
    limits.check_memory_budgets(limits.MEMORY)

    assert sum(limits.MEMORY[name] for name in limits.MEMORY_BASE) == pytest.approx(1.0)
    with pytest.raises(InvalidInput, match=r"1\.010"):
        limits.check_memory_budgets({**limits.MEMORY, "model": 0.41})
