"""Processes of the tests, forked from one that has imported torch already, as a command forks its trainers.

A process that starts anew and imports torch takes two processor seconds before it does anything; a fork begins at once.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
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

    def start(self, target: str, *arguments: str, log: Path, told: str = "") -> Forked:
        """A process that runs `target`, with `told` as its stdin."""
        stdin, control = os.pipe()
        read, messages = os.pipe()
        os.write(control, told.encode())
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            order = Order("esper-forked", target, arguments)
            request(self._connection, order, stdin=stdin, log=file.fileno(), messages=messages)
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
