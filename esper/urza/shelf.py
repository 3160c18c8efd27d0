"""Kernels within reach: from memory where they are there, else from the object store; checked every time they leave.

The library serves from one, and a trainer fetches through one of its own what a prefetch answer names.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from esper.leyline.objects import ObjectStore
from esper.urza import artifact
from esper.urza.artifact import Expected, Kernel, Refusal
from esper.urza.cache import Cache


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken, and whether it came from memory."""

    kernel: Kernel | Refusal
    cached: bool


class KernelCache:
    """An object store with a cache before it. Safe for several threads; two that miss at once both read the store."""

    def __init__(self, objects: ObjectStore, cache: Cache[Kernel]) -> None:
        self.cache = cache
        self._objects = objects
        self._lock = threading.Lock()

    def take(self, expected: Expected) -> Taken:
        """The kernel that is expected, or the first check that it fails (R-URZA-3)."""
        held = self.held(expected)
        if held is not None:
            return held
        read = artifact.read(self._objects, expected)
        if isinstance(read, Kernel):
            with self._lock:
                self.cache.put(expected.artifact_ref, read)
        return Taken(read, cached=False)

    def held(self, expected: Expected) -> Taken | None:
        """The same from memory alone; None where it is not there.

        A copy that went bad is evicted and refused: its caller gets nothing, the next one what the store has.
        """
        with self._lock:
            kernel = self.cache.get(expected.artifact_ref)
        if kernel is None:
            return None
        refusal = artifact.check(kernel, expected)
        if refusal is None:
            return Taken(kernel, cached=True)
        with self._lock:
            self.cache.evict(expected.artifact_ref)
        return Taken(refusal, cached=True)

    def sweep(self) -> None:
        """Forget what has been in memory for too long."""
        with self._lock:
            self.cache.sweep()
