"""The load-test script runs, loses nothing, and reports what it saw."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from esper.leyline.signing import KeyRing
from streams.loadtest import Load, run


@pytest.mark.requirement("R-OONA-1", "R-OONA-2")
def test_a_small_load_gets_through_whole(log, ring):
    report = run(log.address, KeyRing(ring.secrets), Load(rate=500, facts=100, seconds=1.0, size=100))

    assert (report.events, report.shed, report.lost) == (500, 0, 0)
    assert 0 < report.latency_ms_p50 <= report.latency_ms_p95 <= report.latency_ms_p99
    assert report.deepest_queue > 0


def test_its_help_shows_an_example():
    said = subprocess.run(
        [sys.executable, "-m", "streams.loadtest", "--help"], capture_output=True, text=True, check=True, timeout=30
    ).stdout

    assert "example: python -m streams.loadtest --rate 10000" in said


@pytest.mark.requirement("R-OONA-12", "R-OONA-27")
@pytest.mark.soak
def test_ten_thousand_events_a_second_for_a_minute_lose_nothing_and_shed_less_than_a_twentieth(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "streams.loadtest", "--rate", "10000", "--seconds", "60", "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )

    report = json.loads(ended.stdout)
    assert report["lost"] == 0
    assert report["shed"] <= report["events"] / 20
    assert report["deepest_queue"] <= 10_000
