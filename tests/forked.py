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
from typing import Any, TextIO

import psutil

from esper.installation import python_module
from esper.weatherlight.forkserver import Order, child_environment, request


class Forks:
    """The way to the fork server."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def start(self, target: str, *arguments: str, log: Path, told: str = "", inherit: Sequence[int] = ()) -> Forked:
        """A process that runs `target`, with `told` as its stdin and the descriptors `inherit` from 4 on."""
        stdin, control = os.pipe()
        read, messages = os.pipe()
        os.write(control, told.encode())
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            order = Order("esper-forked", target, arguments)
            request(self._connection, order, stdin=stdin, log=file.fileno(), messages=messages, inherit=inherit)
        for descriptor in (stdin, control, messages):
            os.close(descriptor)
        return Forked(os.fdopen(read), log)


class Forked:
    """A forked process, as heard over its pipe."""

    def __init__(self, messages: TextIO, log: Path) -> None:
        self._messages = messages
        self.log = log
        self.pid = int(json.loads(messages.readline())["pid"])

    @property
    def is_over(self) -> bool:
        return not psutil.pid_exists(self.pid)

    def kill(self) -> None:
        """End it with SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

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


class Command(subprocess.Popen[str]):
    """The `esper` command with `arguments` in the working directory `folder`, as a process that `forks` gives.

    The fork server needs `warm` of the end-to-end tests among its modules; `log` takes what it should not say.
    """

    def __init__(self, forks: Forks, arguments: Sequence[str], folder: Path, log: Path) -> None:
        self._forks, self._folder, self._log = forks, folder, log
        super().__init__(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def _execute_child(self, args: Sequence[str], *given: Any) -> None:
        pipes = given[9:15]
        told = (str(self._folder), json.dumps(dict(os.environ)), *args)
        self._forked = self._forks.start("warm:command", *told, log=self._log, inherit=(pipes[3], pipes[5]))
        self.pid = self._forked.pid
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    # Its parent is the fork server, which has its exit code.

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags & os.WNOHANG and not self._forked.is_over:
            return 0, 0
        code, _ = self._forked.wait()
        return self.pid, -code if code < 0 else code << 8

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._forked.is_over:
            self.wait()
        return self.returncode


@contextmanager
def fork_server(folder: Path, *modules: str) -> Iterator[Forks]:
    """A fork server that has imported `modules` and finds those of `folder`; all ends with the context."""
    ours, theirs = socket.socketpair()
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    with theirs:
        server = subprocess.Popen(
            python_module("esper.weatherlight.forkserver", "--fd", str(theirs.fileno()), *modules),
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**child_environment(), "PYTHONPATH": path},
        )
    try:
        yield Forks(ours)
    finally:
        ours.close()
        server.kill()
        server.wait()
