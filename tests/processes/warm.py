"""A process of Esper's in a fork of one that has imported everything, as if Python had been started for it.

Starting Python, Esper, a Kafka client and torch takes one to four processor seconds before a process does anything, and
the tests start hundreds. In the product trainers and services are forked for the same reason; here what starts their
fork servers is, too (`tests.forked.Warm`), and what these start in turn (`Within`). What happens after that is the
product's own. How processes start from nothing is shown by the tests that are marked `cold`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

from esper.weatherlight import __main__ as services
from esper.weatherlight.forkserver import FIRST_INHERITED
from esper.weatherlight.supervisor import SERVICES

LIBRARIES: Final = (
    "torch._inductor.compile_fx",
    "esper.cli.app",
    "esper.cli.training",
    "esper.tezzeret.kernel",
    *SERVICES.values(),
    *services.LIBRARIES,
)
FORKED: Final = frozenset(
    {
        "esper.cli",
        "esper.tezzeret.child",
        "esper.weatherlight",
        "esper.weatherlight.ranks",
        "esper.weatherlight.forkserver",
        "streams.archiver",
        "streams.broker",
        "streams.decider",
        "streams.forge",
        "streams.worker",
        "torch.distributed.run",
    }
)


EXAMPLES: Final = "examples"
"""The folder of scripts that run in a fork, too: ours, and copies of them."""
COMPILES: Final = "esper.tezzeret.child"
HEADERS: Final = "ESPER_TESTS_HEADERS"
"""Names the folder where the session keeps what a compiler made of torch's headers (tests/conftest.py)."""


def words_of(command: object) -> list[str]:
    """What a command line that runs one of `FORKED`, or a script of `EXAMPLES`, has behind Python's name and options.

    Empty where it runs something else.
    """
    if not isinstance(command, list | tuple) or command[:1] != type(command)([sys.executable]):
        return []
    words = [str(word) for word in command[1:] if word not in {"-P", "-u"}]
    if words[0] == "-m" and words[1] in FORKED:
        return words[1:]
    return words if Path(words[0]).parent.name == EXAMPLES else []


def process(arguments: Sequence[str], _messages: object) -> int:
    """Be `python -m` in the folder, with the environment (JSON) and the words that are given. The exit code."""
    folder, environment, *words = arguments
    os.dup2(FIRST_INHERITED, 1)
    os.close(FIRST_INHERITED)
    os.chdir(folder)
    return _run(words, json.loads(environment))


def call(arguments: Sequence[str], messages: TextIO) -> Any:
    """What a target of the fork server is, with the environment (JSON) that comes before its own arguments."""
    environment, target, *own = arguments
    os.environ.clear()
    os.environ.update(json.loads(environment))
    module, _, function = target.partition(":")
    return getattr(import_module(module), function)(own, messages)


class Within(subprocess.Popen[Any]):
    """Forks instead of starting Python for one of `FORKED`; all else is started."""

    def _execute_child(self, args: Any, *given: Any) -> None:
        if not (words := words_of(args)):
            super()._execute_child(args, *given)  # type: ignore[misc]
            return
        kept, environment, pipes = given[3], given[5], given[9:15]
        self.pid = os.fork()
        if self.pid == 0:
            _become(words, (pipes[0], pipes[3], pipes[5]), sorted(kept), environment or os.environ)
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
        code = _run(words, environment)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def _run(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """What `python -m` with these words does: its exit code."""
    variables = dict(environment)
    os.environ.clear()
    os.environ.update(variables)
    tempfile.tempdir = None
    _name_in_the_list_of_processes(words)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    subprocess.Popen = Within  # type: ignore[misc]
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")  # that it was imported already
    sys.argv = list(words)
    with headers(Path(tempfile.gettempdir(), "headers")) if words[0] == COMPILES else contextlib.nullcontext():
        try:
            if words[0].endswith(".py"):
                sys.path.insert(0, str(Path(words[0]).parent))
                runpy.run_path(words[0], run_name="__main__")
            else:
                runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0


@contextlib.contextmanager
def headers(own: Path) -> Iterator[None]:
    """Within, torch finds its headers as an earlier kernel's compiler left them: 8 of 16 processor seconds a kernel.

    Each kernel has them in a folder of its `own`, by hard links. What a compiler was killed over never gets out of it.
    """
    codecache: Any = import_module("torch._inductor.codecache")
    cpp: Any = import_module("torch._inductor.config").cpp
    cpp.cxx = (None, os.environ.get("CXX", "g++"))  # as the import would have it, which is over
    codecache._HEADER_DIR, codecache._HEADER_LOCK_DIR = str(own), str(own / "locks")
    kept = Path(os.environ.get(HEADERS) or own)
    _link(kept, own)
    yield
    if any(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).glob("*/*.so")):  # it came through
        _link(own, kept)


def _link(from_folder: Path, to_folder: Path) -> None:
    to_folder.mkdir(exist_ok=True)
    for path in from_folder.glob("*.h*"):
        with contextlib.suppress(OSError):  # it is there already, or lies on another file system
            (to_folder / path.name).hardlink_to(path)


def _name_in_the_list_of_processes(words: Sequence[str]) -> None:
    """Write over what the process that forked this one was started with: tests find processes by their data folder."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, see proc(5)
    text = "\0".join(words).encode()[: end - begin - 1]
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, text, len(text))
