"""Processes of the tests, forked from one that has imported torch already, as a command forks its trainers.

A process that starts anew and imports torch takes two processor seconds before it does anything; a fork begins at once.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

import psutil

from esper.cli.trainers import LIBRARIES as TRAINERS
from esper.installation import python_module
from esper.weatherlight.forkserver import Order, child_environment, request
from tests.processes.warm import LIBRARIES, words_of

HERE: Final = Path(__file__).parent
MODULES: Final = (HERE / "processes", HERE / "e2e", HERE / "integration" / "forge")
"""Where the modules of the tests lie that run in a fork."""


class Forks:
    """The way to the fork server."""

    def __init__(self, connection: socket.socket, *, warm: bool) -> None:
        self._connection = connection
        self._warm = warm

    def start(self, target: str, *arguments: str, log: Path, told: str = "") -> Forked:
        """A process that runs `target`, with `told` as its stdin."""
        if self._warm:  # it began in the environment of whichever test came first
            target, arguments = "warm:call", (json.dumps(dict(os.environ)), target, *arguments)
        stdin, control = os.pipe()
        os.write(control, told.encode())
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            forked = self.order(Order("esper-forked", target, arguments), stdin=stdin, log=file.fileno())
            forked.log = log
        for descriptor in (stdin, control):
            os.close(descriptor)
        return forked

    def order(self, order: Order, *, stdin: int, log: int, inherit: Sequence[int] = ()) -> Forked:
        """A process as ordered, with these descriptors, of which the caller keeps its own."""
        read, messages = os.pipe()
        request(self._connection, order, stdin=stdin, log=log, messages=messages, inherit=inherit)
        os.close(messages)
        return Forked(os.fdopen(read))


class Forked:
    """A forked process, as heard over its pipe."""

    def __init__(self, messages: TextIO) -> None:
        self._messages = messages
        self.log = Path(os.devnull)
        self.pid = int(json.loads(messages.readline())["pid"])

    @property
    def is_over(self) -> bool:
        return not psutil.pid_exists(self.pid)

    def kill(self) -> None:
        """End it with SIGKILL."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        finally:
            self.wait()  # also where it has ended by itself: its pipe would be a later test's warning

    def wait(self) -> tuple[int, list[dict[str, Any]]]:
        """Its exit code and what it said, once it has ended."""
        with self._messages as messages:
            *words, end = [json.loads(line) for line in messages]
        return end["exit"], words

    def last_word(self) -> dict[str, Any]:
        """The last that it said, once it has ended."""
        code, words = self.wait()
        assert words, (code, self.log.read_text())
        return words[-1]


COLD: Final = subprocess.Popen


class Warm(subprocess.Popen[Any]):
    """A `Popen` whose process is forked by `everybodys` where it is one of ours (see `tests.processes.warm`)."""

    libraries: tuple[str, ...] = ()
    """What its processes have imported beside what any process of Esper's does."""
    _forked: Forked | None = None

    def _execute_child(self, args: Any, *given: Any) -> None:
        prepared, descriptors, folder, environment, pipes = given[1], given[3], given[4], given[5], given[9:15]
        if not (words := words_of(args)) or prepared is not None or descriptors:
            super()._execute_child(args, *given)  # type: ignore[misc]
            return
        told = (str(folder or Path.cwd()), json.dumps(dict(environment or os.environ)))
        stdin, stdout, stderr = (pipes[at] if pipes[at] >= 0 else number for number, at in enumerate((0, 3, 5)))
        order = Order("python", "warm:process", (*told, *words))
        self._forked = everybodys(*self.libraries).order(order, stdin=stdin, log=stderr, inherit=(stdout,))
        self.pid = self._forked.pid
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    # The fork server is its parent and has its exit code.

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._forked is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc, no-any-return]
        if wait_flags & os.WNOHANG and not self._forked.is_over:
            return 0, 0
        code, _ = self._forked.wait()
        return self.pid, -code if code < 0 else code << 8

    def _internal_poll(self, *known: Any, **more: Any) -> int | None:
        if self._forked is None:
            return super()._internal_poll(*known, **more)  # type: ignore[misc, no-any-return]
        if self.returncode is None and self._forked.is_over:
            self.wait()
        return self.returncode


@contextmanager
def processes(kind: type[subprocess.Popen[Any]]) -> Iterator[None]:
    """Within, `subprocess` makes processes so: `Warm` forks Esper's, `COLD` starts them all from nothing."""
    started = subprocess.Popen
    subprocess.Popen = kind  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = started  # type: ignore[misc]


_everybodys: dict[tuple[str, ...], tuple[Any, Forks]] = {}


def everybodys(*more: str) -> Forks:
    """The fork server of this session which has imported what any process of Esper's does, and `more`."""
    if more not in _everybodys:
        libraries = (*TRAINERS, "esper.weatherlight.beginning", *LIBRARIES, "warm", "feed_job")
        server = fork_server(*libraries, *more)
        _everybodys[more] = (server, server.__enter__())
    return _everybodys[more][1]


def end_everybodys() -> None:
    """End the session's fork servers, and with them whatever they forked."""
    while _everybodys:
        _everybodys.popitem()[1][0].__exit__(None, None, None)


@contextmanager
def fork_server(*modules: str) -> Iterator[Forks]:
    """A fork server that has imported `modules`, also such as lie in `MODULES`; all ends with the context."""
    ours, theirs = socket.socketpair()
    path = os.pathsep.join([*map(str, MODULES), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    with theirs:
        server = subprocess.Popen(
            python_module("esper.weatherlight.forkserver", "--fd", str(theirs.fileno()), *modules),
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            # With more threads the import of torch's compiler would start a pool of processes.
            env={**child_environment(), "PYTHONPATH": path, "TORCHINDUCTOR_COMPILE_THREADS": "1"},
        )
    try:
        yield Forks(ours, warm="warm" in modules)
    finally:
        ours.close()
        server.kill()
        server.wait()
