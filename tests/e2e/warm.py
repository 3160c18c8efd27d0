"""What the `esper` command of a test is in a fork: itself, and its two fork servers are forks of it.

A command that starts anew imports Esper, its fork server torch, and its supervisor's the services: four processor
seconds before anything is done, forty times over. Here `tests.forked` imports all that once, and a command begins at
once, as trainers and services do in the product. What happens after that is the product's own. How processes start
from nothing is shown by the files that say `COLD = True`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from esper import cli
from esper.weatherlight import __main__ as services
from esper.weatherlight import forkserver
from esper.weatherlight.supervisor import SERVICES

LIBRARIES: Final = ("esper.cli.app", "esper.cli.training", *SERVICES.values(), *services.LIBRARIES)
MAINS: Final = {
    "esper.cli": cli.main,
    "esper.weatherlight": services.main,
    "esper.weatherlight.forkserver": forkserver.main,
}
STDOUT: Final = forkserver.FIRST_INHERITED


def command(arguments: Sequence[str], _messages: object) -> int:
    """Be the command: its folder, its environment in JSON, then its own arguments. Its exit code."""
    folder, environment, *own = arguments
    for number in (1, 2):
        os.dup2(STDOUT + number - 1, number)
        os.close(STDOUT + number - 1)
    os.chdir(folder)
    subprocess.Popen = Within  # type: ignore[misc]
    return _run("esper.cli", own, json.loads(environment))


class Within(subprocess.Popen[Any]):
    """Forks instead of starting Python for one of `MAINS`, while there is one thread; all else is started."""

    def _execute_child(self, args: Any, *given: Any) -> None:
        if not isinstance(args, list) or args[:3] != [sys.executable, "-P", "-m"] or threading.active_count() > 1:
            super()._execute_child(args, *given)  # type: ignore[misc]
            return
        kept, environment, pipes = given[3], given[5], given[9:15]
        self.pid = os.fork()
        if self.pid == 0:
            _become(args[3:], (pipes[0], pipes[3], pipes[5]), sorted(kept), environment)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def _become(words: list[str], standard: Sequence[int], kept: Sequence[int], environment: Mapping[str, str]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        for number, descriptor in enumerate(standard):
            if descriptor >= 0:
                os.dup2(descriptor, number)
        for after, before in zip((2, *kept), (*kept, os.sysconf("SC_OPEN_MAX")), strict=True):
            os.closerange(after + 1, before)
        code = _run(words[0], words[1:], environment)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def _run(module: str, arguments: list[str], environment: Mapping[str, str]) -> int:
    """What `python -m module` does: its exit code."""
    os.environ.clear()
    os.environ.update(environment)
    _name_in_the_list_of_processes([module, *arguments])
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [module, *arguments]
    try:
        return MAINS[module]() or 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)


def _name_in_the_list_of_processes(words: Sequence[str]) -> None:
    """Write over what the process that forked this one was started with: tests find processes by their data folder."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, see proc(5)
    text = "\0".join(words).encode()[: end - begin - 1]
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, text, len(text))
