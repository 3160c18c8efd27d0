"""Whether the process that trains a run lives: which one this is, and whether one of a record is still there."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Final

from contracts.leyline.v1.event_pb2 import TrainerProcess

_PROC: Final = Path("/proc")
_STARTED: Final = 19
"""The field of `/proc/PID/stat` behind the state that says when the process started, in ticks (proc(5), field 22)."""


def this_process() -> TrainerProcess:
    """What others on this machine need to know this process by."""
    return TrainerProcess(boot=_boot(), pid=os.getpid(), started_ticks=_started(os.getpid()) or 0)


def lives(process: TrainerProcess) -> bool | None:
    """Whether a process of a record is still there; None where nobody here can tell: another machine, or another boot.

    After a restart of the machine it is gone, but so is what would tell that machine from another one.
    """
    boot = _boot()
    if not boot or process.boot != boot:
        return None
    return _started(process.pid) == process.started_ticks


def _boot() -> str:
    """A name for this boot of this machine and this set of process ids, which a container has of its own."""
    with contextlib.suppress(OSError):
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return hashlib.sha256(f"{boot} {(_PROC / 'self/ns/pid').readlink()}".encode()).hexdigest()[:16]
    return ""


def _started(pid: int) -> int | None:
    """When a process started; None for one that is gone, and for one that only waits for its parent to notice."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # the name may hold anything
    return None if state in {"Z", "X"} else int(fields[_STARTED - 1])
