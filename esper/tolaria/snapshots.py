"""The fast way back: the newest states of a run in memory, few and bounded in bytes (R-TOL-20)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from esper.tolaria.checkpoint import Position
from esper.tolaria.state_tree import FlatState


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state in memory, the root of its digest, and where in the run it belongs."""

    flat: FlatState
    root: bytes
    position: Position


class SnapshotCache:
    """At most `count` snapshots of `limit_bytes` together; the oldest go first, and `evictions` counts them.

    A snapshot that is larger than the limit on its own is not kept: then only the full way back is left.
    """

    def __init__(self, count: int, limit_bytes: int) -> None:
        self._count = count
        self._limit_bytes = limit_bytes
        self._snapshots: deque[Snapshot] = deque()
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._snapshots)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(snapshot.flat.nbytes for snapshot in self._snapshots)

    def add(self, snapshot: Snapshot) -> None:
        """Keep this one, and as many of the older ones as fit beside it."""
        self._snapshots.append(snapshot)
        while len(self._snapshots) > self._count or (self._snapshots and self.nbytes > self._limit_bytes):
            self._snapshots.popleft()
            self.evictions += 1

    def newest(self) -> Snapshot | None:
        """The latest snapshot, None where there is none."""
        return self._snapshots[-1] if self._snapshots else None

    def forget_after(self, step: int) -> None:
        """Drop what belongs to steps that a rollback undid."""
        while self._snapshots and self._snapshots[-1].position.step > step:
            self._snapshots.pop()
