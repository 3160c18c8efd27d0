"""Limits, the ladder and the conservative mode."""

from __future__ import annotations

import pytest

from contracts.leyline.v1.leyline_pb2 import CIRCUIT_BREAKER_STATE_CLOSED, CIRCUIT_BREAKER_STATE_OPEN
from esper.errors import InvalidInput
from esper.tezzeret.pipelines import LADDER, Breakers, conservative_reason, limits, lower

MB = 2**20


def of(requested, **options):
    chosen = limits(requested, **{"attempt": 1, "attempts": 2, **options})
    return chosen.pipeline, chosen.timeout_s, chosen.memory_bytes // MB


@pytest.mark.requirement("R-TEZ-4")
def test_the_four_pipelines_have_their_limits():
    """R-TEZ-4 and R-TEZ-5."""
    assert of("emergency") == ("emergency", 10, 2_048)
    assert of("fast") == ("fast", 65, 4_096)
    assert of("standard") == ("standard", 250, 8_192)
    assert of("aggressive", aggressive=True) == ("aggressive", 960, 16_384)


@pytest.mark.requirement("R-TEZ-8")
def test_the_conservative_mode_goes_one_down_with_more_time_and_less_memory():
    """R-TEZ-8."""
    assert of("aggressive", aggressive=True, conservative=True) == ("standard", 375, 4_096)
    assert of("standard", conservative=True) == ("fast", 97.5, 2_048)
    assert of("fast", conservative=True) == ("emergency", 15, 1_024)
    assert of("emergency", conservative=True) == ("emergency", 15, 1_024)


@pytest.mark.requirement("R-TEZ-7")
def test_aggressive_needs_consent():
    """R-TEZ-7."""
    assert of("aggressive")[0] == "standard"
    assert of("aggressive", conservative=True)[0] == "fast"


def test_the_last_of_several_attempts_does_not_compile():
    assert of("standard", attempt=2)[0] == "emergency"
    assert [of("standard", attempt=number, attempts=3)[0] for number in (1, 2, 3)] == ["standard", "fast", "emergency"]
    assert of("aggressive", attempt=3, attempts=4, aggressive=True)[0] == "fast"
    assert of("standard", attempt=1, attempts=1)[0] == "standard"


def test_the_ladder_ends_at_its_foot():
    assert [lower(each.name).name for each in LADDER] == ["standard", "fast", "emergency", "emergency"]


def test_an_unknown_pipeline_is_refused():
    with pytest.raises(InvalidInput, match="there are aggressive, standard, fast, emergency"):
        of("turbo")


class Hands:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.requirement("R-TEZ-10")
@pytest.mark.parametrize(("kind", "failures", "reset_s"), [("memory", 3, 30.0), ("timeout", 2, 300.0)])
def test_the_breakers_open_and_close(kind, failures, reset_s):
    """R-TEZ-10."""
    clock = Hands()
    breakers = Breakers(clock)
    for _ in range(failures - 1):
        assert breakers.failed(kind, "too much") == []
        clock.now += 250.0
    (opened,) = breakers.failed(kind, "too much")
    assert opened.to_state == CIRCUIT_BREAKER_STATE_OPEN
    assert breakers.open_ones() == [f"tezzeret_{kind}"]

    clock.now += reset_s
    assert len(breakers.poll()) == 1
    assert breakers.succeeded() == breakers.succeeded() == []
    (closed,) = breakers.succeeded()
    assert closed.to_state == CIRCUIT_BREAKER_STATE_CLOSED


def test_a_template_of_its_own_fault_opens_nothing():
    breakers = Breakers(lambda: 0.0)

    assert [breakers.failed("error", "division by zero") for _ in range(9)] == [[]] * 9
    assert breakers.open_ones() == []


@pytest.mark.requirement("R-TEZ-9")
def test_what_makes_it_careful():
    """R-TEZ-9."""
    assert conservative_reason([], 0.8) == ""
    assert "81%" in conservative_reason([], 0.81)
    assert "tezzeret_memory" in conservative_reason(["tezzeret_memory"], 0.1)
