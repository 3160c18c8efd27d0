"""Run a module as a child that cannot outlive its parent: `python -m esper.weatherlight.guard MODULE [ARGUMENT ...]`.

The kernel sends SIGKILL to the child when its parent dies (prctl(2), PR_SET_PDEATHSIG), so `kill -9` of a supervisor or
of `esper run` leaves no process behind. Linux only; elsewhere the children notice their parent's end on their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Final

from esper.installation import python_module

PR_SET_PDEATHSIG: Final = 1
PARENT_VARIABLE: Final = "ESPER_PARENT_PID"
NICENESS_VARIABLE: Final = "ESPER_NICENESS"


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends; exits at once where the parent is gone already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    expected = os.environ.pop(PARENT_VARIABLE, None)
    # The parent may have died between fork and prctl; then no signal will ever come.
    if expected is not None and os.getppid() != int(expected):
        sys.exit(1)


def be_nice() -> None:
    """Take the low priority that the parent asked for, before anything heavy is imported.

    Linux may group processes by session and share the cores among the groups; then the niceness of the group counts,
    and every service has a session of its own. A process of the policy SCHED_BATCH takes no core from one that runs
    when it wakes, which is what a decision suffered from most.
    """
    niceness = int(os.environ.pop(NICENESS_VARIABLE, "0"))
    os.nice(niceness)
    if niceness and sys.platform == "linux":
        with contextlib.suppress(OSError):  # no such groups, or forbidden: then the niceness alone must do
            Path("/proc/self/autogroup").write_text(str(niceness), encoding="ascii")
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def guarded(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module` under this guard."""
    return python_module("esper.weatherlight.guard", module, *arguments)


def child_environment(niceness: int = 0) -> dict[str, str]:
    """The environment of a guarded child: one computing thread each, and few malloc arenas, to save memory."""
    return {
        **os.environ,
        PARENT_VARIABLE: str(os.getpid()),
        NICENESS_VARIABLE: str(niceness),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "PYTHONUNBUFFERED": "1",
    }


if __name__ == "__main__":
    die_with_parent()
    be_nice()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
