"""Checked kernels in memory, before the object store: the least recently used leave first, none stays over an hour.

Evicting forgets a copy and nothing else: objects and catalogue stay as they are (R-URZA-15). The library serves from
one, and a trainer reads through one of its own what a prefetch answer names.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from cachetools import TTLCache

from esper.errors import InvalidInput
from esper.leyline.objects import ObjectStore
from esper.urza import artifact
from esper.urza.artifact import Expected, Kernel, Refusal
from esper.urza.version import MonotonicS

LIMIT_BYTES: Final = 1024 * 2**20
TTL_S: Final = 3_600.0


class Memory(TTLCache[str, Kernel]):
    """Kernels by reference, together at most `maxsize` bytes; counts what made room and what expired."""

    def __init__(self, limit_bytes: int, ttl_s: float, monotonic: MonotonicS) -> None:
        self.evictions = 0
        self.expired = 0
        super().__init__(limit_bytes, ttl_s, timer=monotonic, getsizeof=lambda kernel: kernel.nbytes)

    def popitem(self) -> tuple[str, Kernel]:
        """Drop the least recently used, as a cache that is full does."""
        self.evictions += 1
        return super().popitem()

    def expire(self, time: float | None = None) -> list[tuple[str, Kernel]]:
        """Drop everything whose time is over."""
        gone = list(super().expire(time))
        self.expired += len(gone)
        return gone


@dataclass(frozen=True, slots=True)
class Fetched:
    """The kernel or why it is refused, and whether it came from memory."""

    kernel: Kernel | Refusal
    cached: bool


class KernelCache:
    """An object store with a memory before it: every kernel is checked each time it is handed out (R-URZA-3).

    Safe for several threads; two that miss at once both read the store. Raises InvalidInput for a cache without room or
    time.
    """

    def __init__(
        self, objects: ObjectStore, monotonic: MonotonicS, *, limit_bytes: int = LIMIT_BYTES, ttl_s: float = TTL_S
    ) -> None:
        if limit_bytes < 1 or ttl_s <= 0:
            raise InvalidInput(f"a cache needs room and time, not {limit_bytes} bytes for {ttl_s:g} s")
        self.memory = Memory(limit_bytes, ttl_s, monotonic)
        self._objects = objects
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """What the kernels in memory take."""
        return int(self.memory.currsize)

    def fetch(self, expected: Expected) -> Fetched:
        """The kernel that is expected, from memory or else from the store, or the first check that it fails."""
        found = self.in_memory(expected)
        if found is not None:
            return found
        read = artifact.read(self._objects, expected)
        if isinstance(read, Kernel) and read.nbytes <= self.memory.maxsize:
            with self._lock:
                self.memory[expected.artifact_ref] = read
        return Fetched(read, cached=False)

    def in_memory(self, expected: Expected) -> Fetched | None:
        """The same from memory alone; None where it is not there.

        A copy that went bad is evicted and refused: this caller gets nothing, the next one what the store has.
        """
        with self._lock:
            self.memory.expire()
            kernel = self.memory.get(expected.artifact_ref)
        if kernel is None:
            return None
        refusal = artifact.check(kernel, expected)
        if refusal is None:
            return Fetched(kernel, cached=True)
        with self._lock:
            if self.memory.pop(expected.artifact_ref, None) is not None:
                self.memory.evictions += 1
        return Fetched(refusal, cached=True)

    def expire(self) -> None:
        """Forget what has been in memory for too long."""
        with self._lock:
            self.memory.expire()
