"""The supervisor of one data folder: it serves leases, and while anyone holds one it keeps the processes running.

    embedded broker ─► topics ─► decider, worker, archiver, forge

The broker's listening socket belongs to the supervisor, so a broker that is started again answers on the same port and
clients that connect meanwhile wait in the socket's queue. With an outside broker there is no process for it.

Nobody waits for the forge: a run without it trains with kernels that it builds itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from esper.errors import EsperError, InvalidInput
from esper.weatherlight import endpoint
from esper.weatherlight.endpoint import State, Status
from esper.weatherlight.forkserver import FIRST_INHERITED, Order
from esper.weatherlight.reporting import keep_house, report, serve_health
from esper.weatherlight.service import Service
from esper.weatherlight.watch import Emergencies
from streams.access import know_own
from streams.broker.secret import NAME as SECRET
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.settings import Settings
from streams.topics import ensure_topics

FIRST_LEASE_S: Final = 3.0
"""A supervisor without a client for this long after its start ends: its client was interrupted before it could ask."""
BROKER_STOP_S: Final = 1.5
NICENESS: Final = {"worker": 5, "archiver": 5, "forge": 5}
"""Nobody waits for these, and a training step and a decision come first. Children of the forge add ten of their own."""

SERVICES: Final = {
    "broker": "streams.broker.__main__",
    "decider": "streams.decider",
    "worker": "streams.worker",
    "archiver": "streams.archiver",
    "forge": "streams.forge.__main__",
}
"""The processes, and the modules whose `run` they call."""

logger = logging.getLogger(__name__)


def run(arguments: Sequence[str], _messages: TextIO) -> None:
    """Supervise the data folder that is the one argument; the first inherited descriptor leads to the fork server."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with socket.socket(fileno=FIRST_INHERITED) as fork_server:
        supervisor = Supervisor(Path(arguments[0]), os.environ.get("ESPER_BROKERS") or None, fork_server)
        asyncio.run(supervisor.serve())


class Supervisor:
    """Serves the data folder's socket until the last lease is given back; then everything is stopped.

    `outside_brokers` is the address of a broker that somebody else runs, or None for the embedded one; `fork_server`
    is the socket over which processes are ordered.
    """

    def __init__(self, data_dir: Path, outside_brokers: str | None, fork_server: socket.socket) -> None:
        self.data_dir = data_dir
        self.run_folder = endpoint.run_folder(data_dir)
        self.outside_brokers = outside_brokers
        self._fork_server = fork_server
        self._state: State = "starting"
        self._error = ""
        self._listener: socket.socket | None = None
        self._anonymous = False
        self._services: dict[str, Service] = {}
        self._runners: list[asyncio.Task[None]] = []
        self._leases: dict[asyncio.StreamWriter, str] = {}
        self._leaving: list[asyncio.StreamWriter] = []
        self._wanted: set[str] = set()
        self._bringing_up: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._metrics = Metrics()
        self._emergencies = Emergencies(self.run_folder, self._metrics)
        self._health_port: int | None = None

    # ------------------------------------------------------------------------------------------------------- serving

    async def serve(self) -> None:
        """Serve until the last lease has ended or a signal asks for the end; then all processes are gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._over.set)
        server = await asyncio.start_unix_server(self._serve_client, sock=endpoint.bind(self.data_dir))
        loop.call_later(FIRST_LEASE_S, self._end_if_unused)
        self._runners.append(asyncio.create_task(keep_house(self.run_folder)))
        self._runners.append(asyncio.create_task(self._emergencies.watch_flags()))
        logger.info("supervising %s as pid %d", self.data_dir, os.getpid())
        with serve_health(self.status, self._metrics) as health:
            self._health_port = health.port
            await self._over.wait()
        # From here on nobody new is let in: whoever connects now finds no socket and starts the next supervisor, which
        # waits for the lock that this process holds until it is gone.
        endpoint.unlink(self.data_dir)
        server.close()
        self._set_state("stopping")
        await self._stop_all()
        logger.info("all processes of %s have ended", self.data_dir)

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        leased = False
        try:
            while line := await reader.readline():
                message = json.loads(line)
                leased = leased or message["op"] == "lease"
                if message["op"] == "release" and self._release(writer):
                    return
                if message["op"] == "lease":
                    self._lease(message, writer)
                if message["op"] == "status":
                    self._send(writer)
        except (ConnectionError, KeyError, TypeError, ValueError) as error:
            logger.warning("a client's connection ended badly: %r", error)
        self._leases.pop(writer, None)
        writer.close()
        if leased:
            self._announce()
            self._end_if_unused()

    def _lease(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        """Note a client and start what it needs; one that comes too late is hung up on and asks the next supervisor."""
        if self._over.is_set():
            writer.close()
            return
        try:
            self._check(message)
            self._listen(int(message["port"]))
        except InvalidInput as error:
            writer.write(endpoint.encode({"refused": str(error)}))
            return
        self._leases[writer] = str(message["client"])
        self._want({"broker"} if message["broker_only"] else {"broker", "decider", "worker", "archiver", "forge"})
        self._announce()

    def _release(self, writer: asyncio.StreamWriter) -> bool:
        """Take a lease back. True where it was the last: its client is answered by the end of this process."""
        self._leases.pop(writer, None)
        self._end_if_unused()
        last = self._over.is_set()
        writer.write(endpoint.encode({"last": last}))
        if last:
            self._leaving.append(writer)
        self._announce()
        return last

    def _check(self, message: dict[str, Any]) -> None:
        asked = message["brokers"] or None
        if asked != self.outside_brokers:
            raise InvalidInput(
                f"data folder {self.data_dir} is in use with {self.outside_brokers or 'the embedded broker'}, not with "
                f"{asked or 'the embedded broker'}; take another --data-dir, or stop what uses it first"
            )

        ours, theirs = Settings.load().topic_prefix if asked else "", message.get("prefix", "")
        if theirs != ours:
            raise InvalidInput(
                f"data folder {self.data_dir} is in use with {ours!r} before the names of topics, not with {theirs!r} "
                "(ESPER_TOPIC_PREFIX); take another --data-dir, or stop what uses it first"
            )

        anonymous = bool(message.get("anonymous"))
        if self._listener is None:
            self._anonymous = anonymous and asked is None
        elif anonymous and not self._anonymous:
            raise InvalidInput(
                f"the embedded log of {self.data_dir} runs and asks for its secret: it can be started with --anonymous "
                "when what uses it has ended"
            )

    def _end_if_unused(self) -> None:
        if not self._leases:
            self._over.set()

    # ---------------------------------------------------------------------------------------------------- processes

    def _listen(self, port: int) -> None:
        """Bind the embedded broker's socket: to `port`, or to any free one where it is 0."""
        if self.outside_brokers is not None:
            return
        if self._listener is not None:
            bound = self._listener.getsockname()[1]
            if port not in (0, bound):
                raise InvalidInput(
                    f"the broker of {self.data_dir} already listens on port {bound}, so it cannot listen on {port}"
                )
            return
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            listener.close()
            raise InvalidInput(f"port {port} cannot be had: {error.strerror}; take another --port or none") from None
        listener.listen(256)
        self._listener = listener

    @property
    def brokers(self) -> str:
        """The address of the log, empty before the first lease."""
        if self.outside_brokers is not None:
            return self.outside_brokers
        return f"127.0.0.1:{self._listener.getsockname()[1]}" if self._listener is not None else ""

    def _want(self, names: set[str]) -> None:
        """Start what a new client needs beyond what runs already."""
        missing = names - self._wanted
        self._wanted |= names
        if missing and self._state != "failed":
            self._set_state("starting")
            before = self._bringing_up
            self._bringing_up = asyncio.create_task(self._bring_up(missing, before))

    async def _bring_up(self, names: set[str], before: asyncio.Task[None] | None) -> None:
        try:
            if before is not None:
                await before
            if "broker" in names and self._listener is not None:
                options = ("--anonymous",) if self._anonymous else ()
                arguments = ("--data-dir", str(self.data_dir), "--fd", str(FIRST_INHERITED), *options)
                await self._start("broker", arguments, inherit=(self._listener.fileno(),))
            agents = sorted(names - {"broker", "forge"})
            if agents:
                settings = Settings.load(data=self.data_dir)
                know_own(self.brokers, settings)
                await ensure_topics(self.brokers)
            place = ("--data-dir", str(self.data_dir), "--brokers", self.brokers)
            if "forge" in names:
                self._runners.append(asyncio.create_task(self._keep_forge(place)))
            await asyncio.gather(*(self._start(name, place) for name in agents))
            if agents:
                ring = load_key_ring(settings, self.brokers)
                self._runners.append(asyncio.create_task(report(self.status, self.brokers, ring, self._metrics)))
                self._runners.append(asyncio.create_task(self._emergencies.watch_log(self.brokers, ring)))
        except EsperError as error:
            logger.error("%s", error)  # noqa: TRY400 - foreseen, and the child's own log has its traceback
            self._error = str(error)
            self._set_state("failed")
            return
        if self._state == "starting":
            self._set_state("ready")

    async def _keep_forge(self, arguments: tuple[str, ...]) -> None:
        try:
            await self._start("forge", arguments)
        except EsperError as error:
            logger.error("no kernels are compiled: %s", error)  # noqa: TRY400 - foreseen, as below

    async def _start(self, name: str, arguments: tuple[str, ...], *, inherit: tuple[int, ...] = ()) -> None:
        """Start a process and wait until it is ready; raises LogUnavailable where it does not become so."""
        order = Order(f"esper-{name}", f"{SERVICES[name]}:run", arguments, NICENESS.get(name, 0))
        log = self.run_folder / f"{name}.log"
        service = Service(order, self._fork_server, log, self._announce, inherit=inherit)
        self._services[name] = service
        runner = asyncio.create_task(service.run())
        self._runners.append(runner)
        ready = asyncio.create_task(service.ready.wait())
        await asyncio.wait({runner, ready}, return_when=asyncio.FIRST_COMPLETED)
        if not service.ready.is_set():
            ready.cancel()
            await runner

    async def _stop_all(self) -> None:
        """End the agents side by side and the broker after them, so that they can still commit what they did."""
        for task in (self._bringing_up, *self._runners):
            if task is not None:
                task.cancel()
        broker = self._services.get("broker")
        await asyncio.gather(*(service.stop() for service in self._services.values() if service is not broker))
        if broker is not None:
            await broker.stop(BROKER_STOP_S)
        if self._listener is not None:
            self._listener.close()
        await asyncio.gather(*self._runners, return_exceptions=True)

    # -------------------------------------------------------------------------------------------------------- status

    def status(self) -> Status:
        """Everything as it is now."""
        services = tuple(service.status for service in self._services.values())
        return Status(
            state=self._state,
            pid=os.getpid(),
            data_dir=str(self.data_dir),
            brokers=self.brokers,
            embedded=self.outside_brokers is None,
            anonymous=self._anonymous,
            secret=str(self.data_dir / "log" / SECRET) if self.outside_brokers is None else "",
            degraded=any(service.restarts and service.state != "ready" for service in services),
            error=self._error,
            health_port=self._health_port,
            services=services,
            clients=tuple(self._leases.values()),
            emergency=self._emergencies.last,
        )

    def _set_state(self, state: State) -> None:
        self._state = state
        self._announce()

    def _announce(self) -> None:
        """Tell every client what changed."""
        for writer in self._leases:
            self._send(writer)

    def _send(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(endpoint.encode(self.status().to_json()))
