"""`/health` and `/metrics` of one process, on a loopback port of its own.

`/health` answers 200 while every check passes and 503 otherwise, with the checks as JSON. `/metrics` is what Prometheus
scrapes. Requests are one line, so HTTP is a few lines of asyncio: a web server's main loop woke ten times a second in
each of five processes with nothing to do, and took 30 ms of each start.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from streams.metrics import Metrics
    from streams.producer import Publisher

Check = Callable[[], str | None]
"""None while all is well, else one line that says what is not."""

HOST: Final = "127.0.0.1"
REQUEST_S: Final = 5.0
MAX_REQUEST_BYTES: Final = 8 * 1024
LOG_ANSWER_S: Final = 2.0
IN_HEALTH: Final = (
    "esper_oona_queue_depth",
    "esper_oona_breaker_state",
    "esper_tezzeret_breaker_state",
    "esper_urza_breaker_state",
    "esper_tolaria_breaker_state",
    "esper_archive_lag_seconds",
    "esper_nissa_alerts_active",
)
"""Gauges that `/health` shows beside the checks, where the process has them: depth, breakers, lag and alerts."""
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


class HealthPages:
    """The two pages of `process`, served in the loop that `start` runs in; `port` says where.

    `figures` are numbers shown beside the checks, such as the queue's depth, and so are `gauges`, of which there are as
    many as there are series by then; `render` is the text of `/metrics`.
    """

    def __init__(
        self,
        process: str,
        render: Callable[[], bytes],
        *,
        checks: Mapping[str, Check],
        figures: Mapping[str, Callable[[], float]] | None = None,
        gauges: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._process = process
        self._render = render
        self._checks = dict(checks)
        self._figures = dict(figures or {})
        self._gauges = gauges
        self._began = time.monotonic()
        self._server: asyncio.Server | None = None
        self.socket = socket.create_server((HOST, 0))
        self.port: int = self.socket.getsockname()[1]

    async def start(self) -> None:
        """Answer from now on."""
        self._server = await asyncio.start_server(self._answer, sock=self.socket, limit=MAX_REQUEST_BYTES)

    def stop(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.close()
        self.socket.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = self._page(head.split(b" ", 2)[1])
                length = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                writer.write(f"HTTP/1.1 {status}\r\n{length}".encode() + body)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            pass  # no request that could be answered
        finally:
            writer.close()

    def _page(self, path: bytes) -> tuple[str, str, bytes]:
        if path not in {b"/health", b"/metrics"}:
            return "404 Not Found", "text/plain", b"/health or /metrics\n"
        troubles = {name: check() for name, check in self._checks.items()}  # they also set metrics
        if path == b"/metrics":
            return "200 OK", _TEXT, self._render()
        well = not any(troubles.values())
        page: dict[str, Any] = {
            "process": self._process,
            "status": "ok" if well else "unhealthy",
            "checks": {name: trouble or "ok" for name, trouble in troubles.items()},
            "figures": {name: figure() for name, figure in self._figures.items()} | dict(self._gauges()),
            "uptime_s": round(time.monotonic() - self._began, 3),
        }
        return "200 OK" if well else "503 Service Unavailable", "application/json", json.dumps(page).encode()


class HealthServer:
    """The pages of a process, served in a thread of its own: a process that is busy answers all the same."""

    def __init__(
        self,
        process: str,
        metrics: Metrics,
        *,
        checks: Mapping[str, Check],
        figures: Mapping[str, Callable[[], float]] | None = None,
    ) -> None:
        self._pages = HealthPages(
            process, metrics.render, checks=checks, figures=figures, gauges=lambda: metrics.gauges(*IN_HEALTH)
        )
        self.port = self._pages.port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"health-{process}", daemon=True)
        self._thread.start()
        # A `close` that came before the start was over would stop the loop in the middle of it.
        asyncio.run_coroutine_threadsafe(self._pages.start(), self._loop).result(REQUEST_S)

    def close(self) -> None:
        """Stop answering."""
        self._loop.call_soon_threadsafe(self._pages.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=REQUEST_S)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class LogCheck:
    """Whether the log answers, asked when somebody wants to know: nothing ticks while nobody does.

    Made in the loop of `publisher`; called from the thread of the health server, which it holds up by two seconds at
    most.
    """

    def __init__(self, publisher: Publisher, metrics: Metrics) -> None:
        self._publisher = publisher
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()

    def trouble(self) -> str | None:
        """One line where the log is silent."""
        asked = asyncio.run_coroutine_threadsafe(self._publisher.answers(LOG_ANSWER_S), self._loop)
        try:
            answers = asked.result(LOG_ANSWER_S)
        except TimeoutError:
            answers = False
        self._metrics.set("esper_oona_log_up", float(answers))
        return None if answers else f"the log at {self._publisher.brokers} is silent for {LOG_ANSWER_S:g} s"
