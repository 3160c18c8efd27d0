"""A client's side of the supervisor: join a data folder, hold a lease, ask for its status. Synchronous, no threads."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from esper.errors import InvalidInput, LogUnavailable
from esper.installation import python_module
from esper.weatherlight import endpoint
from esper.weatherlight.endpoint import Status
from esper.weatherlight.forkserver import child_environment
from projections.manifest import refuse_exports
from streams.access import know
from streams.settings import Settings

JOIN_S: Final = 40.0
READY_S: Final = 60.0
RELEASE_S: Final = 5.0
LOG_NAME: Final = "weatherlight.log"


class SupervisorGone(LogUnavailable):
    """The supervisor ended while its client still needed it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client wants of a data folder's supervisor."""

    data_dir: Path
    client: str
    brokers: str | None
    port: int
    broker_only: bool
    anonymous: bool = False

    def message(self) -> dict[str, Any]:
        """As it goes over the socket."""
        return {
            "op": "lease",
            "client": self.client,
            "brokers": self.brokers,
            "prefix": "" if self.brokers is None else Settings.load().topic_prefix,
            "port": self.port,
            "broker_only": self.broker_only,
            "anonymous": self.anonymous,
        }


class Lease:
    """A claim on the data folder's processes: they run at least until this is released or its process ends."""

    def __init__(self, request: Request, starter: subprocess.Popen[bytes] | None) -> None:
        self._request = request
        self._released = False
        self._pending = b""
        self._connection, self.status, self._starter = _join(request, starter)

    @property
    def brokers(self) -> str:
        """The address of the log; it does not change as long as the lease holds."""
        return self.status.brokers

    def unwritable(self) -> str:
        """Why the archive cannot be written, as far as the supervisor has said by now; empty where it can."""
        with contextlib.suppress(SupervisorGone):
            self.poll()
        return self.status.unwritable

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until every process is ready; raises LogUnavailable with the cause where that fails."""
        deadline = time.monotonic() + timeout_s
        while self.status.state != "ready":
            if self.status.state == "failed":
                raise LogUnavailable(self.status.error)
            if not self.poll(deadline - time.monotonic()) and time.monotonic() > deadline:
                waiting = [service.name for service in self.status.services if service.state != "ready"]
                raise LogUnavailable(
                    f"{', '.join(waiting) or 'the processes'} of {self.status.data_dir} not ready within "
                    f"{timeout_s:.0f} s; their logs are in {Path(self.status.data_dir) / 'run'}"
                )

    def poll(self, timeout_s: float = 0.0) -> bool:
        """Take in what the supervisor said meanwhile; False where it said nothing new within `timeout_s`.

        Raises SupervisorGone where it is no more.
        """
        if b"\n" not in self._pending:
            readable, _, _ = select.select([self._connection], [], [], max(0.0, timeout_s))
            if not readable:
                return False
            chunk = self._receive()
            if not chunk:
                raise SupervisorGone(f"the supervisor of {self.status.data_dir} (pid {self.status.pid}) is gone")
            self._pending += chunk
        *lines, self._pending = self._pending.split(b"\n")
        if lines:
            self.status = Status.from_json(json.loads(lines[-1]))
        return bool(lines)

    def renew(self) -> None:
        """After `SupervisorGone`: join the next supervisor, or start it, with the log at the address that it had."""
        self._connection.close()
        _reap(self._starter)
        port = int(self.brokers.rpartition(":")[2]) if self.status.embedded else 0
        again = replace(self._request, port=port, anonymous=self.status.anonymous)
        self._pending = b""
        self._released = False
        self._connection, self.status, self._starter = _join(again)

    def let_go(self) -> None:
        """Give the lease back and go on; `release` waits for what ends by that."""
        if not self._released:
            self._released = True
            with contextlib.suppress(OSError):
                self._connection.sendall(endpoint.encode({"op": "release"}))

    def release(self, timeout_s: float = RELEASE_S) -> bool:
        """Give the lease back. True where it was the last one: then every process has ended when this returns."""
        self.let_go()
        with self._connection:
            try:
                last = self._answer_to_release(time.monotonic() + timeout_s)
            except (OSError, ValueError):  # it is gone, or this side was closed already
                last = True
        if last:
            _reap(self._starter)
        return last

    def _answer_to_release(self, deadline: float) -> bool:
        """Whether this was the last lease; if it was, wait until the supervisor has ended and hung up."""
        last = False
        while (left_s := deadline - time.monotonic()) > 0:
            if not select.select([self._connection], [], [], left_s)[0]:
                break
            chunk = self._receive()
            if not chunk:
                return True
            *lines, self._pending = (self._pending + chunk).split(b"\n")
            answers = [json.loads(line) for line in lines]
            if any(answer.get("last") is False for answer in answers):
                return False
            last = last or any(answer.get("last") for answer in answers)
        return last

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(65536)
        except ConnectionError:
            return b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def join(
    data_dir: Path,
    *,
    client: str,
    brokers: str | None = None,
    port: int = 0,
    broker_only: bool = False,
    anonymous: bool = False,
    starter: subprocess.Popen[bytes] | None = None,
) -> Lease:
    """A lease on the data folder's processes, started first where none run. `client` says who asks, for the status.

    `anonymous`: the embedded log lets anyone in. Raises InvalidInput where the folder's processes run with another
    broker or port than asked for, or do not let anyone in, or where the port is taken, and LogUnavailable where no
    supervisor answers.
    """
    refuse_exports(data_dir)
    return Lease(Request(data_dir.resolve(), client, brokers, port, broker_only, anonymous), starter)


def _join(
    request: Request, starter: subprocess.Popen[bytes] | None = None
) -> tuple[socket.socket, Status, subprocess.Popen[bytes] | None]:
    """A connection that holds a lease, what the supervisor first said, and the process of one that was started here."""
    endpoint.run_folder(request.data_dir)
    deadline = time.monotonic() + JOIN_S
    try:
        while time.monotonic() < deadline:
            connection = endpoint.connect(request.data_dir)
            answer = _exchange(connection, request.message()) if connection is not None else None
            if connection is not None and answer is not None:
                _check_not_refused(answer, connection, starter)
                return connection, _learnt(answer), starter
            if connection is not None:
                connection.close()
            if starter is None or starter.poll() is not None:
                starter = _start_supervisor(request.data_dir, request.brokers)
            time.sleep(0.02)
    except BaseException:
        _give_up(request.data_dir, starter)
        raise
    log = endpoint.run_folder(request.data_dir) / LOG_NAME
    raise LogUnavailable(f"no supervisor of {request.data_dir} answers within {JOIN_S:.0f} s; see {log}")


def _check_not_refused(
    answer: Mapping[str, Any], connection: socket.socket, starter: subprocess.Popen[bytes] | None
) -> None:
    if "refused" in answer:
        connection.close()
        _reap(starter)
        raise InvalidInput(str(answer["refused"]))


def _give_up(data_dir: Path, starter: subprocess.Popen[bytes] | None) -> None:
    """End processes that are still starting; where a supervisor listens already, others may have joined it."""
    if starter is None or starter.poll() is not None:
        return
    connection = endpoint.connect(data_dir)
    if connection is not None:
        connection.close()
        return
    starter.terminate()
    _reap(starter)


@contextlib.contextmanager
def launched(data_dir: Path, brokers: str | None) -> Iterator[subprocess.Popen[bytes] | None]:
    """Within, the processes of a data folder begin to start where none run; `join` is called with what this gives."""
    refuse_exports(data_dir)
    data_dir = data_dir.resolve()
    connection = endpoint.connect(data_dir)
    if connection is not None:
        connection.close()
        yield None
        return
    starter = _start_supervisor(data_dir, brokers)
    try:
        yield starter
    except BaseException:
        _give_up(data_dir, starter)
        raise


def status(data_dir: Path) -> Status | None:
    """What runs for this data folder now; None where nothing does."""
    connection = endpoint.connect(data_dir.resolve())
    if connection is None:
        return None
    with connection:
        answer = _exchange(connection, {"op": "status"})
    return _learnt(answer) if answer is not None else None


def _learnt(answer: dict[str, Any]) -> Status:
    """What a supervisor says; from now on this process can speak to its log."""
    found = Status.from_json(answer)
    if found.embedded and found.brokers:
        know(found.brokers, Path(found.data_dir))
    return found


def _exchange(connection: socket.socket, request: Mapping[str, object]) -> dict[str, Any] | None:
    """The supervisor's first answer to `request`; None where it hung up, being on its way out."""
    connection.settimeout(5.0)
    try:
        connection.sendall(endpoint.encode(request))
        line = b""
        while not line.endswith(b"\n"):
            byte = connection.recv(1)  # no more than this answer: what follows belongs to the lease
            if not byte:
                return None
            line += byte
    except OSError:
        return None
    answer: dict[str, Any] = json.loads(line)
    return answer


def _reap(starter: subprocess.Popen[bytes] | None) -> None:
    """Take the exit code of a supervisor that has hung up and that this process started, so that no zombie stays."""
    if starter is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            starter.wait(RELEASE_S)


def _start_supervisor(data_dir: Path, brokers: str | None) -> subprocess.Popen[bytes]:
    """Start it detached: in its own session, so that Ctrl-C in the client's terminal does not reach it."""
    environment = {name: value for name, value in child_environment().items() if name != "ESPER_BROKERS"}
    if brokers is not None:
        environment["ESPER_BROKERS"] = brokers
    with (endpoint.run_folder(data_dir) / LOG_NAME).open("ab") as log:
        return subprocess.Popen(
            python_module("esper.weatherlight", "--data-dir", str(data_dir)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
        )
