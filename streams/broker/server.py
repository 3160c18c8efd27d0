"""The broker of one data folder from start to stop: store, connections and pages, and when records go to the disk."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper.errors import InvalidInput
from streams.broker.connection import Connection
from streams.broker.core import Core
from streams.broker.limits import Limits, Peers
from streams.broker.partition import Partition
from streams.broker.secret import own_secret
from streams.broker.store import Store, now_ms
from streams.health import HealthPages

if TYPE_CHECKING:
    from streams.metrics import Metrics


def pages(core: Core) -> HealthPages:
    """The broker's pages, to be started in its own loop.

    A second thread would cost what the broker is measured by: two threads hand the interpreter over every 5 ms.
    """
    return HealthPages(
        "broker",
        lambda: metrics(core).render(),
        checks={"disk": lambda: next((p.failure for _, _, p in core.store.partitions() if p.failure), None)},
        figures={
            "connections": lambda: core.counters.open_connections,
            "damaged_segments": lambda: sum(len(each.damaged) for each in core.partition_stats()),
        },
    )


def metrics(core: Core) -> Metrics:
    """Everything there is to say about the broker now, under the names of the catalogue."""
    from streams.metrics import Metrics  # noqa: PLC0415 - 30 ms of start-up that the first scrape can pay

    found, totals = Metrics(), core.counters
    found.set("esper_broker_connections", totals.open_connections)
    found.count("esper_broker_requests_total", totals.requests)
    found.count("esper_broker_malformed_total", totals.malformed)
    found.count("esper_broker_refused_total", totals.refused)
    found.set("esper_broker_unwritable", float(core.unwritable()))
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


FLUSH_AFTER_S: Final = 0.5
_LOG: Final = logging.getLogger(__name__)
HOST: Final = "127.0.0.1"
RETAIN_EVERY_S: Final = 5.0
_BACKLOG: Final = 128


class Flusher:
    """Syncs partitions in threads. Whoever waits for one that is being synced shares the next sync with all others."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sync")
        self._running: dict[str, asyncio.Task[None]] = {}

    async def run(self, store: Store) -> None:
        """Syncs what was written, half a second after its first record, for ever. An idle log wakes nobody."""
        while True:
            await store.written.wait()
            store.written.clear()
            await asyncio.sleep(FLUSH_AFTER_S)
            for _, _, partition in tuple(store.partitions()):
                await self.sync(partition)

    async def sync(self, partition: Partition) -> None:
        """Returns when all that `partition` holds now is on the disk, or cannot get there (`failure` says why)."""
        goal = partition.next_offset
        while partition.synced_to < goal and not partition.failure:
            task = self._running.get(partition.name)
            if task is None:
                task = self._running[partition.name] = asyncio.create_task(self._sync(partition))
            await asyncio.shield(task)

    async def _sync(self, partition: Partition) -> None:
        covers = partition.next_offset
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, _sync_files, partition.unsynced())
            partition.synced_to = covers
        except OSError as error:
            # What the kernel could not write it may have dropped, and a second sync would say nothing of it.
            partition.failure = f"{partition.folder}: not written to the disk ({error.strerror}): restart the broker"
            _LOG.error("%s", partition.failure)
        finally:
            del self._running[partition.name]

    def close(self) -> None:
        """Waits for syncs under way."""
        self._pool.shutdown(wait=True)


def _sync_files(descriptors: list[int]) -> None:
    try:
        for fd in descriptors:
            os.fdatasync(fd)
    finally:
        for fd in descriptors:
            os.close(fd)


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
    """The log's secret comes in the clear, so nothing but loopback may reach it.

    Raises:
        InvalidInput: the socket listens elsewhere.
    """
    host = str(sock.getsockname()[0])
    if not ipaddress.ip_address(host).is_loopback:
        raise InvalidInput(f"the inherited socket listens on {host}: the embedded log serves loopback only")


class Broker:
    """A running broker. `core` has the counters and sizes, `health` serves them."""

    def __init__(self, folder: Path, limits: Limits | None = None, *, anonymous: bool = False) -> None:
        """Opens the log's folder; nothing listens yet. `anonymous` lets in clients that do not name its secret.

        Raises:
            LogUnavailable: the folder is locked or cannot be written, or others can read its secret.
        """
        self._flusher = Flusher()
        store = Store(folder)
        try:
            secret = None if anonymous else own_secret(folder)
        except BaseException:
            store.close()
            raise
        self.core = Core(store, self._flusher.sync, peers=Peers(limits), secret=secret)
        self.health = pages(self.core)
        self._server: asyncio.Server | None = None
        self._clockwork: list[asyncio.Task[None]] = []

    async def start(self, sock: socket.socket) -> None:
        """Serves clients of an already listening socket."""
        check_loopback(sock)
        await self.health.start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self.core, self.core.peers), sock=sock)
        self._clockwork = [
            asyncio.create_task(self._flusher.run(self.core.store)),
            asyncio.create_task(self._look_after()),
        ]

    async def _look_after(self) -> None:
        """At the start and every few seconds: what is old is dropped, and clients whose time is up."""
        while True:
            self.core.peers.look(asyncio.get_running_loop().time())
            try:
                self.core.store.retain(now_ms())
            except (OSError, sqlite3.Error) as error:
                _LOG.warning("retention: %s: tried again in %d s", error, RETAIN_EVERY_S)
            await asyncio.sleep(RETAIN_EVERY_S)

    async def stop(self) -> None:
        """Cuts all connections, puts everything on the disk and lets go of the folder."""
        if self._server is not None:
            self._server.close()
        self.health.stop()
        for peer in self.core.peers:
            peer.close()
        for task in self._clockwork:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._flusher.close()
        self.core.store.close()
