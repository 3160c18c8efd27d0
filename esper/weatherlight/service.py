"""One supervised process: started, watched until it is ready, restarted with back-off when it dies, stopped in time."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from esper.errors import LogUnavailable
from esper.weatherlight.backoff import Backoff
from esper.weatherlight.guard import child_environment, guarded
from esper.weatherlight.status import ServiceState, ServiceStatus

READY_S: Final = 30.0
"""R-OPS-1: a process that is not ready by then counts as crashed."""
STOP_S: Final = 2.0
"""From SIGTERM to SIGKILL. The agents end within this and the broker after them, so all is gone within five seconds."""
FIRST_ATTEMPTS: Final = 2
"""A process that was never ready is given up after this many starts: then its cause is no accident."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What to run: a module that prints one JSON line on stdout when it is ready and stops on SIGTERM.

    `inherit` are file descriptors that the process keeps, such as the broker's listening socket. `niceness` is what it
    yields to others: 0 nothing, 19 whatever they want.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    inherit: tuple[int, ...] = ()
    ready_s: float = READY_S
    niceness: int = 0


class Service:
    """Keeps the process of `spec` running until `stop`. `on_change` is called after every change of `status`."""

    def __init__(self, spec: ServiceSpec, log_folder: Path, on_change: Callable[[], None]) -> None:
        self.spec = spec
        self.log_path = log_folder / f"{spec.name}.log"
        self.ready = asyncio.Event()
        self.announcement: dict[str, Any] = {}
        self._on_change = on_change
        self._state: ServiceState = "stopped"
        self._process: asyncio.subprocess.Process | None = None
        self._restarts = 0
        self._last_exit = ""
        self._was_ready = False
        self._stopping = False
        self._backoff = Backoff()
        self._log_start = 0

    @property
    def status(self) -> ServiceStatus:
        """The process as it is now."""
        running = self._process is not None and self._process.returncode is None
        return ServiceStatus(
            name=self.spec.name,
            state=self._state,
            pid=self._process.pid if running and self._process is not None else None,
            restarts=self._restarts,
            health_port=self.announcement.get("health_port"),
            last_exit=self._last_exit,
        )

    async def run(self) -> None:
        """Start the process and start it again whenever it ends, until `stop` is called or this task is cancelled.

        Raises LogUnavailable with the process's own last words where it never became ready in its first attempts.
        """
        loop = asyncio.get_running_loop()
        attempts = 0
        while not self._stopping:
            attempts += 1
            ready_s = 0.0
            process = await self._start()
            if await self._wait_until_ready(process):
                since = loop.time()
                await process.wait()
                ready_s = loop.time() - since
            self.ready.clear()
            self._last_exit = _describe_exit(process.returncode)
            if self._stopping:
                break
            logger.warning("%s ended after %.1f s of being ready: %s", self.spec.name, ready_s, self._last_exit)
            if not self._was_ready and attempts >= FIRST_ATTEMPTS:
                self._set("stopped")
                raise LogUnavailable(f"{self.spec.name} did not start: {self.last_words()}")
            self._restarts += 1
            self._set("waiting")
            await asyncio.sleep(self._backoff.next_wait_s(ready_s, random.random()))
        self._set("stopped")

    async def stop(self, deadline_s: float = STOP_S) -> None:
        """End the process: SIGTERM, and SIGKILL once `deadline_s` has passed. Never starts it again."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        _signal(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), deadline_s)
        except TimeoutError:
            logger.warning("%s did not end within %.1f s of SIGTERM: killed", self.spec.name, deadline_s)
            _signal(process, signal.SIGKILL)
            await process.wait()

    def last_words(self) -> str:
        """The last line that the process wrote, which is its own one-line error if it has manners."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else f"{self._last_exit}, and it said nothing"

    async def _start(self) -> asyncio.subprocess.Process:
        self._set("starting")
        self.announcement = {}
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *guarded(self.spec.module, *self.spec.arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                pass_fds=self.spec.inherit,
                start_new_session=True,
                env=child_environment(self.spec.niceness),
            )
        self._on_change()
        return self._process

    async def _wait_until_ready(self, process: asyncio.subprocess.Process) -> bool:
        """True once the ready line came; else the process is dead when this returns."""
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), self.spec.ready_s)
        except TimeoutError:
            logger.warning("%s was not ready within %.0f s: killed", self.spec.name, self.spec.ready_s)
            _signal(process, signal.SIGKILL)
            line = b""
        try:
            self.announcement = json.loads(line)
        except ValueError:
            if line:
                _signal(process, signal.SIGKILL)
                logger.warning("%s did not announce itself but printed %r", self.spec.name, line[:200])
            await process.wait()
            return False
        self._was_ready = True
        self.ready.set()
        self._set("ready")
        _background(_drain(process.stdout, self.log_path))
        return True

    def _set(self, state: ServiceState) -> None:
        self._state = state
        self._on_change()


_tasks: set[asyncio.Task[None]] = set()


def _background(coroutine: Any) -> None:
    """Run a coroutine beside the caller; the loop itself keeps only weak references to tasks."""
    task = asyncio.ensure_future(coroutine)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _drain(stream: asyncio.StreamReader, log_path: Path) -> None:
    """Whatever a process prints after its ready line goes to its log, so that it never blocks on a full pipe."""
    with log_path.open("ab") as log:
        while chunk := await stream.read(65536):
            _write(log, chunk)


def _write(log: BinaryIO, chunk: bytes) -> None:
    log.write(chunk)
    log.flush()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal unless the process has just ended by itself."""
    if process.returncode is None:
        try:
            process.send_signal(number)
        except ProcessLookupError:
            return


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
