"""`/health` and `/metrics` of the broker, answered in its own event loop.

The other processes serve theirs with uvicorn in a thread (`streams.health`). Here a second thread would cost what the
broker is measured by: two threads hand the interpreter over every 5 ms. Requests are one line, so HTTP is a few lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streams.broker.core import Core

if TYPE_CHECKING:
    from streams.metrics import Metrics

HOST: Final = "127.0.0.1"
REQUEST_S: Final = 5.0
MAX_REQUEST_BYTES: Final = 8 * 1024
_JSON: Final = "application/json"
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


class Health:
    """A server on a loopback port of its own; `port` says where after `start`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._began = time.monotonic()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._answer, HOST, 0, limit=MAX_REQUEST_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    def announce(self, run_folder: Path) -> None:
        """Writes the port where Prometheus and `esper doctor` look for it: `run/broker.json`."""
        run_folder.mkdir(parents=True, exist_ok=True)
        draft = run_folder / f"broker.{os.getpid()}"
        draft.write_text(json.dumps([{"targets": [f"{HOST}:{self.port}"], "labels": {"process": "broker"}}]) + "\n")
        draft.replace(run_folder / "broker.json")

    def stop(self) -> None:
        """Stops answering."""
        if self._server is not None:
            self._server.close()

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
        if path == b"/health":
            return self._health()
        if path == b"/metrics":
            return "200 OK", _TEXT, metrics(self._core).render()
        return "404 Not Found", "text/plain", b"/health or /metrics\n"

    def _health(self) -> tuple[str, str, bytes]:
        troubles = [p.failure for _, _, p in self._core.store.partitions() if p.failure]
        damaged = sum(len(each.damaged) for each in self._core.partition_stats())
        page = {
            "process": "broker",
            "status": "unhealthy" if troubles else "ok",
            "checks": {"disk": troubles[0] if troubles else "ok"},
            "figures": {"connections": self._core.counters.open_connections, "damaged_segments": damaged},
            "uptime_s": round(time.monotonic() - self._began, 3),
        }
        return "503 Service Unavailable" if troubles else "200 OK", _JSON, json.dumps(page).encode()


def metrics(core: Core) -> Metrics:
    """Everything there is to say about the broker now, under the names of the catalogue."""
    from streams.metrics import Metrics  # noqa: PLC0415 - 30 ms of start-up that the first scrape can pay

    found, totals = Metrics(), core.counters
    found.set("esper_broker_connections", totals.open_connections)
    found.count("esper_broker_requests_total", totals.requests)
    found.count("esper_broker_malformed_total", totals.malformed)
    found.count("esper_broker_refused_total", totals.refused)
    found.count("esper_broker_records_total", totals.records)
    found.count("esper_broker_duplicates_total", totals.duplicates)
    found.count("esper_broker_received_bytes_total", totals.bytes_in)
    found.count("esper_broker_sent_bytes_total", totals.bytes_out)
    partitions = core.partition_stats()
    found.set("esper_broker_damaged_segments", sum(len(each.damaged) for each in partitions))
    for each in partitions:
        where = {"topic": each.topic, "partition": str(each.partition)}
        found.set("esper_broker_log_bytes", each.bytes, **where)
        found.set("esper_broker_log_start_offset", each.start, **where)
        found.set("esper_broker_log_end_offset", each.end, **where)
    return found
