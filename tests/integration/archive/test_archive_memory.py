"""The archiver's memory does not grow with what it has archived: ten minutes of traffic, and a short form."""

from __future__ import annotations

import itertools
import statistics
import time

import psutil
import pytest

from projections.generated import history, records

pytestmark = pytest.mark.cold

MB = 2**20


def memory_under_traffic(desk, seconds: float, per_turn: int) -> list[float]:
    """MiB of the archiver with its compactor, a sample after every turn; each turn publishes records and waits."""
    process = psutil.Process(desk.start().pid)
    made = records(history(10**9))
    samples: list[float] = []
    sent, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        part = list(itertools.islice(made, per_turn))
        sent += desk.publish(part)
        desk.wait_for(lambda: desk.archived() == sent, 60.0)  # noqa: B023
        samples.append(process.memory_info().rss / MB)
    return samples


def grown(samples: list[float]) -> float:
    """MiB between the second and the last quarter: what was warm already and what came since."""
    quarter = len(samples) // 4
    return statistics.median(samples[-quarter:]) - statistics.median(samples[quarter : 2 * quarter])


def test_a_leak_would_be_seen():
    assert grown([100.0 + 0.5 * turn for turn in range(100)]) == pytest.approx(25.0)
    assert grown([50.0, 90.0, *[100.0] * 14]) == 0.0


def test_memory_is_flat_for_a_while(desk):
    """Records that were kept would be 30 MiB: each is a thousand bytes of objects."""
    samples = memory_under_traffic(desk, 12.0, 2_000)

    assert len(samples) >= 4
    assert grown(samples) < 30.0


@pytest.mark.soak
@pytest.mark.timeout(1_200)
def test_memory_is_flat_for_ten_minutes(desk):
    """A hundred thousand records and more, merges and deletions of replaced files among them."""
    samples = memory_under_traffic(desk, 640.0, 5_000)

    assert grown(samples) < 20.0
