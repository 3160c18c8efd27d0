"""One supervised process: started, watched until it is ready, restarted with back-off when it dies, stopped in time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from esper.errors import LogUnavailable
from esper.weatherlight.endpoint import ServiceState, ServiceStatus
from esper.weatherlight.forkserver import Order, request

READY_S: Final = 30.0
"""R-OPS-1: a process that is not ready by then counts as crashed."""
STOP_S: Final = 2.0
"""From SIGTERM to SIGKILL. The agents end within this and the broker after them, so all is gone within five seconds."""
FIRST_ATTEMPTS: Final = 2
"""A process that was never ready is given up after this many starts: then its cause is no accident."""
FIRST_WAIT_S: Final = 2.0
LONGEST_WAIT_S: Final = 30.0
JITTER: Final = 0.25
STABLE_S: Final = 10.0
"""A process that was ready for this long has run stably: its next crash counts as the first."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Backoff:
    """Waits of 0, 2, 4, 8, 16, 30, 30 … seconds, each up to a quarter longer by chance but never above 30 (R-OPS-3).

    The first restart after a stable run does not wait: a trainer at its epoch's end waits two seconds for a decision,
    so a single crash of the decider or the broker then costs a run nothing. Only what crashes again is slowed down.
    """

    failures: int = 0

    def next_wait_s(self, ready_s: float, draw: float) -> float:
        """The wait after a crash; `ready_s` is how long the process was ready and `draw` is uniform in [0, 1)."""
        self.failures = 1 if ready_s >= STABLE_S else self.failures + 1
        if self.failures == 1:
            return 0.0
        base = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (self.failures - 2))
        return min(LONGEST_WAIT_S, base * (1.0 + JITTER * draw))


class ForkedProcess(asyncio.Protocol):
    """A process of the fork server, as told over its pipe. `announcement` is what it said when it was ready."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.code: int | None = None
        self.error = ""
        """The line of the exception that ended it; empty where none did."""
        self.announcement: dict[str, Any] = {}
        self.told = asyncio.Event()
        """Set once it is ready, and also when it ended before that."""
        self.ended = asyncio.Event()
        self._pending = b""
        self._to_send: signal.Signals | None = None

    @classmethod
    async def start(cls, connection: socket.socket, order: Order, log: Path, inherit: tuple[int, ...]) -> ForkedProcess:
        """A process that the fork server behind `connection` makes; it writes to the end of `log`."""
        read = _request(connection, order, log, inherit)
        _, process = await asyncio.get_running_loop().connect_read_pipe(cls, os.fdopen(read, "rb", 0))
        return process

    def data_received(self, data: bytes) -> None:
        """Take in messages."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "pid" in said:
                self.pid = said["pid"]
                if self._to_send is not None:
                    self.signal(self._to_send)
            self.code = said.get("exit", self.code)
            self.error = said.get("error", self.error)
            if "ready" in said:
                self.announcement = said
                self.told.set()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Both the process and the fork server have closed the pipe: it has ended."""
        self.told.set()
        self.ended.set()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal unless it has ended; to one that the fork server has not made yet, once it is there."""
        if self.pid is None:
            self._to_send = number
        elif self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    @property
    def exit_text(self) -> str:
        """How it ended."""
        if self.code is not None and self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        return f"exit code {self.code}" + (f": {self.error}" if self.error else "")


class Service:
    """Keeps the process of `order` running until `stop`. `on_change` is called after every change of `status`.

    The process says `{"ready": true}` when it is, and stops on SIGTERM. `inherit` are file descriptors that it gets,
    such as the broker's listening socket.
    """

    def __init__(
        self,
        order: Order,
        fork_server: socket.socket,
        log: Path,
        on_change: Callable[[], None],
        *,
        inherit: tuple[int, ...] = (),
        ready_s: float = READY_S,
    ) -> None:
        self.name = log.stem
        self.ready = asyncio.Event()
        self._order = order
        self._fork_server = fork_server
        self._log = log
        self._on_change = on_change
        self._inherit = inherit
        self._ready_s = ready_s
        self._state: ServiceState = "stopped"
        self._process: ForkedProcess | None = None
        self._restarts = 0
        self._last_exit = ""
        self._stopping = False

    @property
    def status(self) -> ServiceStatus:
        """The process as it is now."""
        process = self._process
        running = process is not None and not process.ended.is_set()
        return ServiceStatus(
            name=self.name,
            state=self._state,
            pid=process.pid if running and process is not None else None,
            restarts=self._restarts,
            health_port=process.announcement.get("health_port") if process is not None else None,
            last_exit=self._last_exit,
        )

    async def run(self) -> None:
        """Start the process and start it again whenever it ends, until `stop` is called or this task is cancelled.

        Raises LogUnavailable with the process's own error where it never became ready in its first attempts.
        """
        backoff = Backoff()
        attempts, was_ready = 0, False
        while not self._stopping:
            attempts += 1
            ready_s, reason = await self._run_once()
            was_ready = was_ready or ready_s is not None
            self.ready.clear()
            if self._stopping:
                break
            logger.warning("%s ended after %.1f s of being ready: %s", self.name, ready_s or 0.0, self._last_exit)
            if not was_ready and attempts >= FIRST_ATTEMPTS:
                self._set("stopped")
                raise LogUnavailable(f"{self.name} did not start: {reason}")
            self._restarts += 1
            self._set("waiting")
            await asyncio.sleep(backoff.next_wait_s(ready_s or 0.0, random.random()))
        self._set("stopped")

    async def stop(self, deadline_s: float = STOP_S) -> None:
        """End the process: SIGTERM, and SIGKILL once `deadline_s` has passed. Never starts it again."""
        self._stopping = True
        process = self._process
        if process is None or process.ended.is_set():
            return
        process.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.ended.wait(), deadline_s)
        except TimeoutError:
            logger.warning("%s did not end within %.1f s of SIGTERM: killed", self.name, deadline_s)
            process.signal(signal.SIGKILL)
            await process.ended.wait()
        self._last_exit = process.exit_text

    async def _run_once(self) -> tuple[float | None, str]:
        """Start the process and go with it to its end: how long it was ready (None: never), and why it ended."""
        loop = asyncio.get_running_loop()
        self._set("starting")
        self._process = process = await ForkedProcess.start(self._fork_server, self._order, self._log, self._inherit)
        reason = ""
        try:
            await asyncio.wait_for(process.told.wait(), self._ready_s)
        except TimeoutError:
            reason = f"it was not ready within {self._ready_s:g} s"
            logger.warning("%s: %s: killed", self.name, reason)
            process.signal(signal.SIGKILL)
        since = loop.time() if process.announcement else None
        if since is not None:
            self.ready.set()
            self._set("ready")
        await process.ended.wait()
        self._last_exit = process.exit_text
        return None if since is None else loop.time() - since, reason or process.error or process.exit_text

    def _set(self, state: ServiceState) -> None:
        self._state = state
        self._on_change()


def _request(connection: socket.socket, order: Order, log: Path, inherit: tuple[int, ...]) -> int:
    """Ask for a process that writes to the end of `log`; the end of its pipe where it is heard."""
    read, write = os.pipe()
    try:
        with log.open("ab") as said, Path(os.devnull).open("rb") as nothing:
            request(connection, order, stdin=nothing.fileno(), log=said.fileno(), messages=write, inherit=inherit)
    finally:
        os.close(write)
    return read
