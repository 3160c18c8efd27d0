"""The broker of one data folder: its store, its connections and its clockwork, from start to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import sqlite3
from pathlib import Path
from typing import Final

from esper.errors import InvalidInput
from streams.broker.connection import Connection
from streams.broker.core import Core
from streams.broker.flusher import Flusher
from streams.broker.health import pages
from streams.broker.store import Store, now_ms

_LOG: Final = logging.getLogger(__name__)
HOST: Final = "127.0.0.1"
RETAIN_EVERY_S: Final = 5.0
_BACKLOG: Final = 128


def listening_socket(port: int) -> socket.socket:
    """A listening socket on loopback; port 0 takes a free one.

    Raises:
        InvalidInput: the port is in use or not permitted.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise InvalidInput(f"port {port} on {HOST}: {error.strerror}: choose another, or 0 for any") from error
    return sock


def check_loopback(sock: socket.socket) -> None:
    """The log has no passwords, so nothing but loopback may reach it.

    Raises:
        InvalidInput: the socket listens elsewhere.
    """
    host = str(sock.getsockname()[0])
    if not ipaddress.ip_address(host).is_loopback:
        raise InvalidInput(f"the inherited socket listens on {host}: the embedded log serves loopback only")


class Broker:
    """A running broker. `core` has the counters and sizes, `health` serves them."""

    def __init__(self, folder: Path) -> None:
        """Opens the data folder; nothing listens yet.

        Raises:
            LogUnavailable: the folder is locked or cannot be written.
        """
        self._flusher = Flusher()
        self.core = Core(Store(folder), self._flusher.sync)
        self.health = pages(self.core)
        self._peers: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._clockwork: list[asyncio.Task[None]] = []

    async def start(self, sock: socket.socket) -> None:
        """Serves clients of an already listening socket."""
        check_loopback(sock)
        await self.health.start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self.core, self._peers), sock=sock)
        self._clockwork = [
            asyncio.create_task(self._flusher.run(self.core.store)),
            asyncio.create_task(self._retain()),
        ]

    async def _retain(self) -> None:
        while True:
            await asyncio.sleep(RETAIN_EVERY_S)
            try:
                self.core.store.retain(now_ms())
            except (OSError, sqlite3.Error) as error:
                _LOG.warning("retention: %s: tried again in %d s", error, RETAIN_EVERY_S)

    async def stop(self) -> None:
        """Cuts all connections, puts everything on the disk and lets go of the folder."""
        if self._server is not None:
            self._server.close()
        self.health.stop()
        for peer in tuple(self._peers):
            peer.close()
        for task in self._clockwork:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._flusher.close()
        self.core.store.close()
