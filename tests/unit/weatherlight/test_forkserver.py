"""A guarded child does not outlive its parent, even when the parent is killed with SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import subprocess, sys, time
from esper.weatherlight.forkserver import child_environment, guarded
child = subprocess.Popen(guarded("guarded_child"), env=child_environment(), stdout=subprocess.PIPE)
print(child.stdout.readline().decode().strip(), flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_child_dies_with_a_killed_parent(tmp_path):
    (tmp_path / "guarded_child.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n")
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment, text=True) as parent:
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(child)


def test_child_of_a_parent_that_is_gone_already_does_not_start():
    environment = {**os.environ, "ESPER_PARENT_PID": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-m", "esper.weatherlight.forkserver", "this", "x"],
        env=environment,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 1
    assert done.stdout == b""
