"""Small programs that stand for supervised processes: they behave and misbehave as real ones do."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from esper.installation import python_module
from esper.weatherlight.forkserver import Order, child_environment
from esper.weatherlight.service import Service


@pytest.fixture
def fork_server(tmp_path: Path) -> Iterator[socket.socket]:
    """The way to a fork server that finds the modules of `tmp_path`; it ends with the test."""
    ours, theirs = socket.socketpair()
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    with theirs:
        server = subprocess.Popen(
            python_module("esper.weatherlight.forkserver", "--fd", str(theirs.fileno())),
            pass_fds=[theirs.fileno()],
            env={**child_environment(), "PYTHONPATH": path},
        )
    yield ours
    ours.close()
    server.kill()
    server.wait()


@pytest.fixture
def make_service(tmp_path: Path, fork_server: socket.socket) -> Callable[..., Service]:
    """A service around a program, given as the text of its `run(arguments, messages)`."""

    def make(program: str, *, ready_s: float = 10.0, niceness: int = 0) -> Service:
        body = "".join(f"    {line}\n" for line in program.splitlines())
        text = f"import json, os, signal, sys, time\n\ndef run(arguments, messages):\n{body}"
        (tmp_path / "supervised_program.py").write_text(text)
        order = Order("program", "supervised_program:run", niceness=niceness)
        return Service(order, fork_server, tmp_path / "program.log", lambda: None, ready_s=ready_s)

    return make


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until `condition` holds; fails the test where it does not."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is the state of another process
            await asyncio.sleep(0.01)


@pytest.fixture(name="until")
def fixture_until() -> Callable[..., object]:
    return until
