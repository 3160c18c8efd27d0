"""`/health` and `/metrics` of one process, on a loopback port of its own.

`/health` answers 200 while every check passes and 503 otherwise, with the checks as JSON; checks only look at what is
known already, so it answers at once. `/metrics` is what Prometheus scrapes. The server lives in a thread of its own:
a process that is busy, or a training loop, answers all the same.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from esper.errors import LogUnavailable
from streams.metrics import Metrics

Check = Callable[[], str | None]
"""None while all is well, else one line that says what is not."""

START_S: Final = 5.0


class HealthServer:
    """A started server; `port` says where. `figures` are numbers shown beside the checks, such as the queue's depth."""

    def __init__(
        self,
        process: str,
        metrics: Metrics,
        *,
        checks: Mapping[str, Check],
        figures: Mapping[str, Callable[[], float]] | None = None,
    ) -> None:
        self._process = process
        self._metrics = metrics
        self._checks = dict(checks)
        self._figures = dict(figures or {})
        self._started_at = time.monotonic()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        routes = [Route("/health", self._health), Route("/metrics", self._scrape)]
        config = uvicorn.Config(
            Starlette(routes=routes),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name=f"esper-health-{process}", daemon=True
        )
        self._thread.start()
        self._wait_until_started()

    def close(self) -> None:
        """Stop answering."""
        self._server.should_exit = True
        self._thread.join(timeout=START_S)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _wait_until_started(self) -> None:
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise LogUnavailable(f"the health server of {self._process} did not start on port {self.port}")
            time.sleep(0.005)

    async def _health(self, _request: Request) -> Response:
        troubles = {name: check() for name, check in self._checks.items()}
        well = not any(troubles.values())
        return JSONResponse(
            {
                "process": self._process,
                "status": "ok" if well else "unhealthy",
                "checks": {name: trouble or "ok" for name, trouble in troubles.items()},
                "figures": {name: figure() for name, figure in self._figures.items()},
                "uptime_s": round(time.monotonic() - self._started_at, 3),
            },
            status_code=200 if well else 503,
        )

    async def _scrape(self, _request: Request) -> Response:
        return Response(self._metrics.render(), media_type=CONTENT_TYPE_LATEST)
