"""A breaker that opened in a run opens in its replay at the same place, and the run goes on from there the same."""

from __future__ import annotations

import os
import time

import pytest

from esper.testing import REAL_CLOCK
from esper.tolaria.outside import Clock
from esper.tolaria.told import read_told, told_event
from tests.unit.retrace.test_emergencies import alarm_changes
from tests.unit.retrace.test_told import refused, tell


def misled(_run_id: str):
    """A command that its sender signed for another run."""
    return told_event("another", read_told("rate 0.5"), now_ns=time.time_ns(), random_bytes=os.urandom(10))


def minutes_after_the_refusal(lived) -> Clock:
    """A clock that stands, and has gone on for minutes once the breaker has refused something."""
    return Clock(lambda: 200.0 if "security_breaker" in refused(lived) else 0.0, REAL_CLOCK.wall_ns)


@pytest.mark.requirement("R-SEC-15")
def test_the_security_breaker_is_replayed(lived):
    script = {2: (misled, misled), 3: misled, 4: tell("rate 0.5"), 12: tell("rate 0.25")}
    lived.train(script, policy="none", clock=minutes_after_the_refusal(lived))

    assert alarm_changes(lived)[0][0] == 3
    assert len(alarm_changes(lived)) == 3
    assert refused(lived) == ["wrong_run"] * 3 + ["security_breaker"]
    replayed = lived.replay()
    assert replayed.diverged is None, str(replayed.diverged)
    assert replayed.digests_checked == lived.count("state_digested")
