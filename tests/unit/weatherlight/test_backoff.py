"""Restarts wait 0, 2, 4, 8, 16, 30 seconds, a quarter more at most, and start over after a stable stretch (R-OPS-3)."""

from __future__ import annotations

import pytest

from esper.weatherlight.service import LONGEST_WAIT_S, STABLE_S, Backoff


@pytest.mark.requirement("R-OPS-3")
def test_waits_double_up_to_the_cap():
    backoff = Backoff()
    waits = [backoff.next_wait_s(ready_s=0.0, draw=0.0) for _ in range(8)]
    assert waits == [0.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


@pytest.mark.requirement("R-OPS-3")
def test_jitter_adds_at_most_a_quarter_and_never_passes_the_cap():
    backoff = Backoff()
    waits = [backoff.next_wait_s(ready_s=0.0, draw=0.999_999) for _ in range(7)]
    assert [round(wait, 3) for wait in waits] == [0.0, 2.5, 5.0, 10.0, 20.0, LONGEST_WAIT_S, LONGEST_WAIT_S]


@pytest.mark.requirement("R-OPS-3")
def test_a_stable_stretch_starts_the_series_over():
    backoff = Backoff()
    for _ in range(4):
        backoff.next_wait_s(ready_s=0.0, draw=0.5)
    assert backoff.next_wait_s(ready_s=STABLE_S - 0.1, draw=0.0) == 16.0
    assert backoff.next_wait_s(ready_s=STABLE_S, draw=0.0) == 0.0
    assert backoff.next_wait_s(ready_s=0.0, draw=0.0) == 2.0
