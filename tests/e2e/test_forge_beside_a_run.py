"""Weatherlight starts the forge beside the others, and nobody depends on it."""

from __future__ import annotations

import fcntl
import os
import signal

from esper.weatherlight import client


def the_forge(lease):
    """What the supervisor says of the forge; None before it says anything."""
    lease.poll(0.1)
    return next((service for service in lease.status.services if service.name == "forge"), None)


def test_the_forge_is_started_with_a_low_priority_and_comes_back_when_it_is_killed(esper):
    with client.join(esper.data_dir, client="test") as lease:
        lease.wait_ready()
        first = esper.wait_until(lambda: (forge := the_forge(lease)) and forge.state == "ready" and forge)
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, first.pid) == min(19, own + 5)
        os.kill(first.pid, signal.SIGKILL)
        esper.wait_until(lambda: (forge := the_forge(lease)).state == "ready" and forge.restarts == 1)
    assert esper.processes() == []


def test_a_forge_that_cannot_start_is_shown_and_stops_nobody(esper):
    (esper.data_dir / "run").mkdir(parents=True)
    with (esper.data_dir / "run" / "forge.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with client.join(esper.data_dir, client="test") as lease:
            lease.wait_ready()
            esper.wait_until(lambda: (forge := the_forge(lease)) and forge.state == "stopped")
            assert lease.status.state == "ready"
    assert "another forge works in" in esper.logs()
