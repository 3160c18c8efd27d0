"""Where the supervisor of a data folder is found, by a lock and a Unix socket, and what it tells its clients there.

Both lie in the folder `run/` of the data folder. The lock is the truth about who supervises; the socket is how clients
reach it. A client's lease is its open connection, so a client that dies by any means gives its lease back.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TextIO

from esper.errors import InvalidInput
from projections.manifest import UNWRITABLE

SOCKET_NAME: Final = "weatherlight.sock"
LOCK_NAME: Final = "weatherlight.lock"
LONGEST_PATH: Final = 100
"""sun_path of a Unix socket holds 108 bytes on Linux and 104 on macOS, the closing zero included."""

State = Literal["starting", "ready", "failed", "stopping"]
ServiceState = Literal["starting", "ready", "waiting", "stopped"]


def run_folder(data_dir: Path) -> Path:
    """The folder of locks, sockets and process logs, made if need be."""
    folder = data_dir / "run"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def take_lock(data_dir: Path) -> TextIO | None:
    """The supervisor's lock, held until the returned file is closed; None where another process holds it."""
    file = (run_folder(data_dir) / LOCK_NAME).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextlib.contextmanager
def _socket_address(folder: Path) -> Iterator[str]:
    """An address of the socket in `folder` that fits into sun_path, however long the folder's own path is."""
    path = str(folder / SOCKET_NAME)
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield path
        return
    if not Path("/proc/self/fd").is_dir():
        raise InvalidInput(f"the path of data folder {folder.parent} is too long for a Unix socket; take a shorter one")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)


def bind(data_dir: Path) -> socket.socket:
    """The supervisor's listening socket; whoever calls holds the lock, so an old socket file is nobody's."""
    folder = run_folder(data_dir)
    (folder / SOCKET_NAME).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _socket_address(folder) as address:
        listener.bind(address)
        Path(address).chmod(0o600)
    listener.listen(64)
    return listener


def unlink(data_dir: Path) -> None:
    """Remove the socket's name, so that nobody new connects."""
    (run_folder(data_dir) / SOCKET_NAME).unlink(missing_ok=True)


def connect(data_dir: Path) -> socket.socket | None:
    """A connection to the data folder's supervisor; None where none listens."""
    folder = data_dir / "run"
    if not (folder / SOCKET_NAME).exists():
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _socket_address(folder) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        return None
    return connection


def encode(message: Mapping[str, Any]) -> bytes:
    """One message as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One supervised process. `waiting` means that it crashed and its back-off runs."""

    name: str
    state: ServiceState
    pid: int | None
    restarts: int
    health_port: int | None = None
    last_exit: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """The supervisor, its processes and its clients.

    `degraded` holds while a process that was ready is down or coming back (R-OPS-6). `error` is one line for a person,
    set where the state is `failed`. `brokers` is the address that every client of the log uses, `secret` the file with
    what the embedded one asks them for, and `anonymous` says that it lets in anyone. `emergency` is one line on the
    last grave emergency that the supervisor saw, empty where there was none.
    """

    state: State
    pid: int
    data_dir: str
    brokers: str
    embedded: bool
    anonymous: bool = False
    secret: str = ""
    degraded: bool = False
    error: str = ""
    health_port: int | None = None
    services: tuple[ServiceStatus, ...] = ()
    clients: tuple[str, ...] = field(default=())
    emergency: str = ""

    @property
    def unwritable(self) -> str:
        """Why the archive cannot be written, while the archiver ends over it again and again; empty where it can."""
        texts = [each.last_exit for each in self.services if each.name == "archiver" and each.state == "waiting"]
        return next((text[text.index(UNWRITABLE) :] for text in texts if UNWRITABLE in text), "")

    def to_json(self) -> dict[str, Any]:
        """The message as it goes over the socket and out of `--json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, message: dict[str, Any]) -> Status:
        """The reverse of `to_json`."""
        services = tuple(ServiceStatus(**service) for service in message["services"])
        return cls(**{**message, "services": services, "clients": tuple(message["clients"])})
