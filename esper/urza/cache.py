"""Checked kernels in memory, in front of the object store: least recently used leave first, none stays over an hour."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from esper.errors import InvalidInput
from esper.leyline.objects import ObjectStore
from esper.urza import artifact
from esper.urza.artifact import Expected, Kernel, Refusal
from esper.urza.version import MonotonicS

LIMIT_BYTES: Final = 1024 * 2**20


TTL_S: Final = 3_600.0


class Sized(Protocol):
    """Something that knows how many bytes of memory it takes."""

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""


Item = TypeVar("Item", bound=Sized)


class Cache(Generic[Item]):
    """Items by reference, together at most `limit_bytes`. Counts hits, misses, evictions and what expired.

    Not safe for several threads at once.
    """

    def __init__(self, monotonic: MonotonicS, *, limit_bytes: int = LIMIT_BYTES, ttl_s: float = TTL_S) -> None:
        if limit_bytes < 1 or ttl_s <= 0:
            raise InvalidInput(f"a cache needs room and time, not {limit_bytes} bytes for {ttl_s:g} s")
        self._monotonic = monotonic
        self._limit_bytes = limit_bytes
        self._ttl_s = ttl_s
        self._items: OrderedDict[str, tuple[Item, float]] = OrderedDict()
        self.nbytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self.expired = 0

    def __len__(self) -> int:
        return len(self._items)

    def get(self, ref: str) -> Item | None:
        """The item, if it is here and fresh."""
        held = self._items.get(ref)
        if held is not None and self._monotonic() - held[1] >= self._ttl_s:
            self._drop(ref)
            self.expired += 1
            held = None
        if held is None:
            self.misses += 1
            return None
        self.hits += 1
        self._items.move_to_end(ref)
        return held[0]

    def put(self, ref: str, item: Item) -> None:
        """Keep an item from now on. One that is larger than the whole cache is not kept."""
        self._drop(ref)
        if item.nbytes > self._limit_bytes:
            return
        while self.nbytes + item.nbytes > self._limit_bytes:
            self._drop(next(iter(self._items)))
            self.evictions += 1
        self._items[ref] = (item, self._monotonic())
        self.nbytes += item.nbytes

    def evict(self, ref: str) -> None:
        """Forget an item, because it is not what it should be."""
        if ref in self._items:
            self._drop(ref)
            self.evictions += 1

    def sweep(self) -> None:
        """Forget everything whose time is over."""
        now = self._monotonic()
        for ref in [ref for ref, (_, kept_at) in self._items.items() if now - kept_at >= self._ttl_s]:
            self._drop(ref)
            self.expired += 1

    def _drop(self, ref: str) -> None:
        held = self._items.pop(ref, None)
        if held is not None:
            self.nbytes -= held[0].nbytes


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
