"""One attempt in a child process: started, watched, and killed with all that it started when it takes too much."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Final

from esper.installation import python_module
from esper.tezzeret.results import READY_FILE, Failure, Order, Report, read_failure, read_report, write_order
from streams.forge.machine import resident_bytes
from streams.settings import Settings

WATCH_S: Final = 0.1
START_LIMIT_S: Final = 60.0
"""Interpreter and torch take 2 s on a quiet machine and took 4.7 s at a load of 10, at the niceness of a child."""
LOG_FILE: Final = "child.log"
_MEMORY_SIGNS: Final = ("MemoryError", "emory allocation", "allocate memory", "bad_alloc")


async def compile_in_child(
    folder: Path, order: Order, timeout_s: float, *, start_limit_s: float = START_LIMIT_S
) -> Report | Failure:
    """Have a child carry out `order` in `folder`, which is emptied first.

    The child's whole process group is killed `timeout_s` of wall-clock time after it has loaded torch, or where that
    takes more than `start_limit_s`; once the child and what it started hold more resident memory together than the
    order allows; and when this task is cancelled.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    write_order(folder, order)
    with (folder / LOG_FILE).open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *python_module("esper.tezzeret.child", str(folder), str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=_environment(folder),
        )
    try:
        stopped = await _watch(process, folder, order, timeout_s, start_limit_s)
    finally:
        # Also where the child has ended: a compiler that it started may still be there.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    report = read_report(folder) if process.returncode == 0 else None
    return report or stopped or read_failure(folder) or _untold(folder, process.returncode)


async def _watch(
    process: asyncio.subprocess.Process, folder: Path, order: Order, timeout_s: float, start_limit_s: float
) -> Failure | None:
    """Wait for the child's end; why it must be killed, where it must."""
    is_ready = False
    deadline = time.monotonic() + start_limit_s
    while process.returncode is None:
        if not is_ready and (folder / READY_FILE).exists():
            is_ready = True
            deadline = time.monotonic() + timeout_s
        left_s = deadline - time.monotonic()
        if left_s <= 0 and is_ready:
            return Failure("timeout", f"killed after {timeout_s:g} s, the limit of the {order.pipeline} pipeline")
        if left_s <= 0:
            return Failure("timeout", f"killed after {start_limit_s:g} s in which it did not start")
        if resident_bytes(process.pid) > order.memory_bytes:
            limit_mb = order.memory_bytes / 2**20
            return Failure("memory", f"killed above {limit_mb:.0f} MB, the limit of the {order.pipeline} pipeline")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), min(WATCH_S, left_s))
    return None


def _environment(folder: Path) -> dict[str, str]:
    """The child's environment: one thread, no GPU, every file of the compiler inside its own folder, and no secret.

    A cache of its own makes what torch saves this kernel's alone, and nothing has to be swept.
    """
    return {
        "OMP_NUM_THREADS": "1",
        **{name: value for name, value in os.environ.items() if name not in Settings.secrets()},
        "CUDA_VISIBLE_DEVICES": "",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TMPDIR": str(folder / "tmp"),
    }


def _untold(folder: Path, code: int | None) -> Failure:
    """A child that ended without a word, as native code does; its last line on stderr is the best that there is."""
    said = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
    kind = "memory" if any(sign in said for sign in _MEMORY_SIGNS) else "error"
    return Failure(kind, f"the child ended with {code}: {last}")
