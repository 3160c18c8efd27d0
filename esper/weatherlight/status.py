"""What the supervisor tells its clients: one message, sent at every change and on request."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["starting", "ready", "failed", "stopping"]
ServiceState = Literal["starting", "ready", "waiting", "stopped"]


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
    set where the state is `failed`. `brokers` is the address that every client of the log uses.
    """

    state: State
    pid: int
    data_dir: str
    brokers: str
    embedded: bool
    degraded: bool = False
    error: str = ""
    health_port: int | None = None
    services: tuple[ServiceStatus, ...] = ()
    clients: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The message as it goes over the socket and out of `--json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, message: dict[str, Any]) -> Status:
        """The reverse of `to_json`."""
        services = tuple(ServiceStatus(**service) for service in message["services"])
        return cls(**{**message, "services": services, "clients": tuple(message["clients"])})
