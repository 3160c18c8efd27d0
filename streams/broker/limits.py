"""What clients may hold of the broker: connections, memory in flight, time; and which of them are our processes.

A half-sent request, an answer that nobody takes and a connection that says nothing cost the others nothing for long. A
large request is received when there is room for all of it, in the order in which they came; small ones always are.
Nobody can lock the others out: where all connections are taken, the one that has been silent longest gives way. Other
users of the machine, told by the owner of their socket, have half of everything, so that ours always have the rest.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

_MIB: Final = 1024 * 1024
_SOCKETS: Final = Path("/proc/net/tcp")
_NOBODY: Final = -1
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much, and how long.

    `first_request_s`: from the connection to the first whole request. `idle_s`: without one; Kafka's own, which clients
    reckon with. `frame_s`: from the first byte of a request to its last. `stalled_s`: without taking what is answered.
    `in_flight_bytes`: of requests above `small_bytes` that are being received, together; two of the greatest.
    `unsent_bytes`: of answers that are not taken yet; beyond it a fetch brings one batch.
    """

    connections: int = 256
    first_request_s: float = 10.0
    idle_s: float = 600.0
    frame_s: float = 15.0
    stalled_s: float = 60.0
    in_flight_bytes: int = 128 * _MIB
    small_bytes: int = _MIB // 4
    unsent_bytes: int = 128 * _MIB


class Peer(Protocol):
    """What a connection tells of itself; times are the event loop's.

    `asked`: it was let in and has sent a whole request.
    `own`: whether its client is our user's, None until somebody wants to know; `ends` are its two addresses.
    """

    own: bool | None
    ends: tuple[Address, Address]
    asked: bool
    heard_at: float
    frame_since: float | None
    stalled_since: float | None

    @property
    def busy(self) -> bool:
        """Whether one of its requests is being worked on."""

    @property
    def unsent(self) -> int:
        """Bytes of answers that it has not taken."""

    def go_on(self) -> None:
        """There is room for the request that it waits to send."""

    def close(self, why: str = "") -> None:
        """Cut it."""


class Peers:
    """All open connections, and what they hold together."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.owned: Callable[[Sequence[tuple[Address, Address]]], list[bool]] = owned
        self.stalled: set[Peer] = set()
        self._open: set[Peer] = set()
        self._shares: dict[Peer, int] = {}
        self._waiting: deque[tuple[Peer, int]] = deque()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Peer]:
        return iter(tuple(self._open))

    def admit(self, peer: Peer) -> bool:
        """Takes a connection in; where there is no place, one that is silent loses its own."""
        if len(self._open) < self.limits.connections // 2:
            self._open.add(peer)
            return True
        self._tell_apart([*self._open, peer])
        strangers = [each for each in self._open if not each.own]
        if not peer.own and len(strangers) >= self.limits.connections // 2:
            if not self._evict(strangers):
                return False
        elif len(self._open) >= self.limits.connections and not self._evict(strangers or list(self._open)):
            return False
        self._open.add(peer)
        return True

    def _tell_apart(self, peers: Iterable[Peer]) -> None:
        """Finds out whose they are: a look at all of the system's sockets, so only when it matters."""
        unknown = [each for each in peers if each.own is None]
        if unknown:
            for peer, own in zip(unknown, self.owned([each.ends for each in unknown]), strict=True):
                peer.own = own

    def _evict(self, peers: list[Peer]) -> bool:
        silent = [each for each in peers if not each.busy]
        if not silent:
            return False
        out = min(silent, key=lambda each: (each.asked, each.heard_at))
        self.drop(out)
        out.close(f"{len(peers)} connections are open, and this one has been silent longest")
        return True

    def drop(self, peer: Peer) -> None:
        """The connection is gone."""
        self._open.discard(peer)
        self.stalled.discard(peer)
        self._waiting = deque(each for each in self._waiting if each[0] is not peer)
        self.release(peer)

    def reserve(self, peer: Peer, size: int) -> bool:
        """Room for a request of `size` bytes; where there is none yet, `peer.go_on` is called when there is."""
        if size <= self.limits.small_bytes or peer in self._shares:
            return True
        if any(each is peer for each, _ in self._waiting):
            return False
        if self._waiting:
            self._tell_apart([peer])
        if self._fits(peer, size) and not any(each.own is peer.own for each, _ in self._waiting):
            self._shares[peer] = size
            return True
        self._tell_apart([peer])
        self._waiting.append((peer, size))
        return False

    def _fits(self, peer: Peer, size: int) -> bool:
        if sum(self._shares.values()) + size <= self.limits.in_flight_bytes // 2:
            return True
        self._tell_apart([peer, *self._shares])
        if not peer.own:
            strangers = sum(share for each, share in self._shares.items() if not each.own)
            if strangers and strangers + size > self.limits.in_flight_bytes // 2:
                return False
        return sum(self._shares.values()) + size <= self.limits.in_flight_bytes

    def release(self, peer: Peer) -> None:
        """The request is received, or never will be."""
        if self._shares.pop(peer, None) is None:
            return
        for waiting, size in tuple(self._waiting):
            if self._fits(waiting, size):
                self._waiting.remove((waiting, size))
                self._shares[waiting] = size
                waiting.go_on()

    def room(self, most: int) -> int:
        """How many bytes an answer may have, up to `most`."""
        if not self.stalled:
            return most
        return max(1, min(most, self.limits.unsent_bytes - sum(each.unsent for each in self.stalled)))

    def look(self, now: float) -> None:
        """Cuts the connections whose time is up."""
        for peer in self:
            why = self._overdue(peer, now)
            if why:
                peer.close(why)

    def _overdue(self, peer: Peer, now: float) -> str:
        limits = self.limits
        waits = any(each is peer for each, _ in self._waiting)
        if peer.frame_since is not None and not waits and now - peer.frame_since > limits.frame_s:
            return f"a request is not whole after {limits.frame_s:g} s"
        if peer.stalled_since is not None and now - peer.stalled_since > limits.stalled_s:
            return f"an answer is not taken after {limits.stalled_s:g} s"
        silent_s = now - peer.heard_at
        if not peer.busy and not waits and not peer.asked and silent_s > limits.first_request_s:
            return f"no request after {limits.first_request_s:g} s"
        if not peer.busy and not waits and silent_s > limits.idle_s:
            return f"no request for {limits.idle_s:g} s"
        return ""


def owned(ends: Sequence[tuple[Address, Address]], sockets: Path = _SOCKETS) -> list[bool]:
    """Whether each client (its address and ours) runs as our user, by the system's list of sockets; true without one.

    A list of 2,000 takes 8 ms.
    """
    try:
        rows = sockets.read_text(encoding="ascii").splitlines()[1:]
        wanted = [f"{_hex(client)} {_hex(server)}" for client, server in ends]
    except (OSError, ValueError):
        return [True] * len(ends)
    owners = {f"{fields[1]} {fields[2]}": int(fields[7]) for fields in map(str.split, rows)}
    return [owners.get(each, _NOBODY) in {os.getuid(), 0} for each in wanted]


def _hex(address: Address) -> str:
    host, port = address
    numbers = [int(part) for part in host.split(".")]
    return "".join(f"{number:02X}" for number in reversed(numbers)) + f":{port:04X}"
