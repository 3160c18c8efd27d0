"""Ctrl-C ends everything within five seconds, whenever it comes, and the history says so."""

from __future__ import annotations

import signal
import time

import pytest

from tests.e2e.conftest import SLOW


def _interrupt(esper, process) -> str:
    since = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    took_s = time.monotonic() - since
    assert process.returncode == 130, stderr
    assert esper.processes() == []
    assert took_s < 5.0
    return stderr


@pytest.mark.cold
@pytest.mark.parametrize(
    "after_s", [pytest.param(0.3, marks=pytest.mark.soak), 1.5, pytest.param(3.0, marks=pytest.mark.soak)]
)
def test_while_it_starts(esper, after_s):
    process = esper.start("run", "--task", "spirals", "--epochs", "50", "--no-static")
    time.sleep(after_s)
    esper.wait_until(lambda: process.poll() is not None or esper.processes())
    since = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    esper.wait_until(lambda: not esper.processes(), 5.0 - (time.monotonic() - since))
    # While Python itself still starts it ends by the signal, or with 1 where that was in its `site`.
    starting = process.returncode == -signal.SIGINT or "Failed to import the site module" in stderr
    assert process.returncode == 130 or starting, stderr


@pytest.mark.requirement("R-OPS-4")
@pytest.mark.usefixtures("go_on")
def test_in_the_middle_of_a_run(esper):
    process = esper.start("run", "--task", SLOW, "--epochs", "40", "--no-static")
    seen = ""
    while not seen.startswith("grown    epoch 2/40"):
        seen = process.stdout.readline()
        assert seen, process.stderr.read()
    assert "Traceback" not in _interrupt(esper, process)
    (grown,) = [run for run in esper.json("runs") if run["control_of"] is None]
    assert grown["status"] == "interrupted"
    assert grown["epochs_done"] >= 2


@pytest.mark.requirement("R-OPS-1", "R-OPS-4")
def test_up_ends_with_all_its_processes(esper):
    process = esper.start("up", "--json")
    assert process.stdout.readline()
    # The command, the fork server, the supervisor and its five; nobody waits for the forge.
    esper.wait_until(lambda: len(esper.processes()) == 8)
    _interrupt(esper, process)
