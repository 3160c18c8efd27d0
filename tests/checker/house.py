"""A data folder with its processes, as they really run, and everything that can be done to them from outside.

One fork server (`esper.weatherlight.forkserver`) forks the broker, the archiver and every client, so that a start
costs hundredths of a second. A service that ends is started again, as the supervisor does.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from esper.leyline.signing import KeyRing
from esper.weatherlight.forkserver import Order, child_environment, request
from streams.broker.server import listening_socket
from tests.checker.clients import Journal
from tests.checker.processes import PLACES, WIDTH

ROOT = Path(__file__).parents[2]
KEY = "7a" * 32
RETIRED_KEY = "0d" * 32
RETIRED_S_AGO = 30 * 86_400
SHARED = (
    "tests.checker.processes",
    "streams.broker.__main__",
    "streams.archiver",
    "projections.history",
    "projections.lineage",
    "tests.checker.projector",
    "esper.weatherlight.beginning",
)
"""What the fork server imports once."""
READY_S = 20.0
RESTARTS_S = (0.0, 0.3, 0.5, 1.0, 2.0)
"""How long after its start a follower is started again, by how often in a row it has ended before it was ready."""
BROKER, ARCHIVER, PROJECTOR = SERVICES = "broker", "archiver", "projector"


class Process:
    """A forked process and what it said."""

    def __init__(self, house: House, name: str, target: str, arguments: list[str], *inherit: int) -> None:
        self.name = name
        self.pid = 0
        self.code: int | None = None
        self.ordered = 0
        self.said: list[dict[str, Any]] = []
        self._text = b""
        heard, messages = os.pipe()
        order_end, self._orders = os.pipe()
        self._heard = heard
        log = house.folder / f"{name}.log"
        place = house.place_of(name)
        mutation = house.mutation or "-"
        order = Order(name, f"tests.checker.processes:{target}", (str(house.clocks), str(place), mutation, *arguments))
        with log.open("ab") as file:
            request(house.fork_server, order, stdin=order_end, log=file.fileno(), messages=messages, inherit=inherit)
        for descriptor in (order_end, messages):
            os.close(descriptor)

    def listen(self, timeout_s: float = 0.0) -> bool:
        """Take in what it said; False once it has ended."""
        if self._heard >= 0 and select.select([self._heard], [], [], timeout_s)[0]:
            text = os.read(self._heard, 65_536)
            if not text:
                self._close()
            *lines, self._text = (self._text + text).split(b"\n")
            for line in lines:
                said = json.loads(line)
                self.pid, self.code = said.get("pid", self.pid), said.get("exit", self.code)
                self.said.append(said)
        return self._heard >= 0

    def alive(self) -> bool:
        """Whether it still runs, as far as it told."""
        while self.listen() and select.select([self._heard], [], [], 0.0)[0]:
            pass
        return self._heard >= 0

    def wait(self, key: str, timeout_s: float = READY_S) -> bool:
        """Wait until it said something with this key; False where it ended, or did not in time."""
        deadline = time.monotonic() + timeout_s
        while not any(key in said for said in self.said):
            left = deadline - time.monotonic()
            if left <= 0 or not self.listen(left):
                return any(key in said for said in self.said)
        return True

    def done(self) -> int:
        """How many orders it has carried out."""
        self.alive()
        return sum("done" in said for said in self.said)

    def order(self, **what: Any) -> None:
        """Give it an order; nothing where it has ended."""
        self.ordered += 1
        with contextlib.suppress(OSError):
            os.write(self._orders, json.dumps(what).encode() + b"\n")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.wait("pid") and self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait("exit")
        self._close()

    def why(self) -> str:
        """What it said last about its end."""
        return next((str(said["error"]) for said in reversed(self.said) if "error" in said), f"exit {self.code}")

    def _close(self) -> None:
        if self._heard >= 0:
            os.close(self._heard)
            os.close(self._orders)
            self._heard = -1


class Forker:
    """A fork server that has imported what the processes of houses need; several houses may share it."""

    def __init__(self, folder: Path) -> None:
        retired_at = int(time.time()) - RETIRED_S_AGO
        self.keys = KeyRing((bytes.fromhex(KEY),), {bytes.fromhex(RETIRED_KEY): retired_at * 10**9})
        keys = {"ESPER_KEY": KEY, "ESPER_KEYS_RETIRED": f"{RETIRED_KEY}@{retired_at}"}
        self.connection, theirs = socket.socketpair()
        with theirs, (folder / "forkserver.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "esper.weatherlight.forkserver", "--fd", str(theirs.fileno()), *SHARED],
                env={**child_environment(), **keys, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.connection.close()
        self._process.wait(READY_S)


class House:
    """A data folder, its processes, and the journal of all that they did."""

    def __init__(self, folder: Path, forker: Forker, mutation: str = "") -> None:
        self.folder = folder
        self.data = folder / "data"
        self.archive = self.data / "archive"
        self.mutation = mutation
        self.deaths: list[str] = []
        self.fork_server = forker.connection
        self.keys = forker.keys
        self.journal_path = folder / "journal.jsonl"
        self._journal_fd = os.open(self.journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.journal = Journal("driver", self._journal_fd)
        self._places: dict[str, int] = {}
        self.clocks = folder / "clocks"
        self.clocks.write_bytes(bytes(PLACES * WIDTH))
        with self.clocks.open("r+b") as file:
            self._clock = mmap.mmap(file.fileno(), PLACES * WIDTH)
        self.data.mkdir()
        self._socket = listening_socket(0)
        self.brokers = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.services: dict[str, Process] = {}
        self.clients: dict[str, Process] = {}
        self._failures = {ARCHIVER: 0, PROJECTOR: 0}
        self._began = {ARCHIVER: 0.0, PROJECTOR: 0.0}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self.processes():
            process.kill()
        self._socket.close()
        self._clock.close()
        os.close(self._journal_fd)

    def processes(self) -> list[Process]:
        """All that live."""
        return [process for process in (*self.services.values(), *self.clients.values()) if process.alive()]

    # ------------------------------------------------------------------------------------------------------- services

    def start_broker(self) -> bool:
        """Start it on its old port; False, with the reason among the deaths, where it does not come up."""
        arguments = ["--data-dir", str(self.data), "--fd", "4", "--anonymous"]
        self.services[BROKER] = broker = Process(self, BROKER, BROKER, arguments, self._socket.fileno())
        if broker.wait("ready"):
            return True
        self._died(broker)
        return False

    def start_followers(self) -> None:
        """Start those that follow the log, archiver and projector, without waiting for them."""
        for name in self._began:
            self.start_follower(name)

    def start_follower(self, name: str) -> Process:
        """Start one of them."""
        ways = {ARCHIVER: ["--data-dir", str(self.data), "--brokers", self.brokers]}
        self.services[name] = process = Process(self, name, name, ways.get(name, [self.brokers, str(self.data)]))
        self._began[name] = time.monotonic()
        return process

    def tend(self) -> None:
        """Start again what has ended by itself, as the supervisor would."""
        for name, began in self._began.items():
            process = self.services.get(name)
            if process is None or process.alive():
                continue
            if time.monotonic() - began >= RESTARTS_S[min(self._failures[name], len(RESTARTS_S) - 1)]:
                self._died(process)
                was_ready = any("ready" in said for said in process.said)
                self._failures[name] = 0 if was_ready else self._failures[name] + 1
                self.start_follower(name)
        broker = self.services.get(BROKER)
        if broker is not None and not broker.alive():
            self._died(broker)
            self.start_broker()

    def _died(self, process: Process) -> None:
        self.deaths.append(f"{process.name}: {process.why()}")
        self.journal.note("died", name=process.name, why=process.why())

    def stop(self, name: str, *, kill: bool) -> None:
        """End a service for a while."""
        process = self.services.pop(name, None)
        if process is None:
            return
        if not kill:
            process.signal(signal.SIGTERM)
            process.wait("exit")
        process.kill()

    @contextlib.contextmanager
    def at_rest(self, *, kill: bool) -> Iterator[None]:
        """The services are down meanwhile; clients go on and wait for the log."""
        for name in reversed(SERVICES):
            self.stop(name, kill=kill)
        yield
        self.start_broker()
        self.start_followers()

    def client(self, role: str, name: str) -> Process:
        """Start a client; its orders may be given at once."""
        arguments = [role, name, self.brokers, str(self.data)]
        self.clients[name] = process = Process(self, name, "client", arguments, self._journal_fd)
        return process

    def named(self, name: str) -> Process | None:
        """A living process by its name."""
        process = self.services.get(name) or self.clients.get(name)
        return process if process is not None and process.alive() else None

    # -------------------------------------------------------------------------------------------------------- outside

    def place_of(self, name: str) -> int:
        """The place of a process's clock; a name keeps it."""
        return self._places.setdefault(name, len(self._places) % PLACES)

    def set_clock(self, name: str, off_s: float) -> None:
        """Let a process's wall clock be off by so much from now on."""
        struct.pack_into("d", self._clock, self.place_of(name) * WIDTH, off_s)

    @staticmethod
    def limit_files(process: Process, size: int) -> None:
        """Let no file of a process grow beyond `size` bytes, which to it is a full disk; -1 frees it."""
        if process.wait("pid") and process.alive():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard if size < 0 else size, hard))
