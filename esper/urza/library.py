"""Urza's library: looks a version up, reads its artifact, checks it, and hands it out, all within 500 ms.

Whatever goes wrong, the caller gets a kernel: the one wanted, or the identity kernel with the reason why. Three
failures within a minute (a lookup that raises, or takes longer than 400 ms) open the breaker; while it is open, only
what was handed out before and is still in memory is served. A probe that fails as well begins the conservative mode:
the same for 300 s (R-URZA-3, R-URZA-10 to R-URZA-12).
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from typing import Final, Literal, Self, TypeVar

from contracts.leyline.v1.event_pb2 import BreakerChanged
from contracts.leyline.v1.leyline_pb2 import (
    CIRCUIT_BREAKER_STATE_HALF_OPEN,
    CIRCUIT_BREAKER_STATE_OPEN,
    CircuitBreakerState,
)
from esper.leyline.breaker import CircuitBreaker
from esper.urza.artifact import IDENTITY, Expected, Kernel, Refusal
from esper.urza.cache import Fetched, KernelCache
from esper.urza.version import Catalogue, MonotonicS, Place, Query, Version, archived

QUERY_LIMIT_S: Final = 0.5
CALL_LIMIT_S: Final = 0.4
CONSERVATIVE_S: Final = 300.0
REMEMBERED: Final = 10_000
Fallback = Literal["", "timeout", "breaker_open", "conservative", "catalogue_failed", "artifact_not_found", "refused"]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: a blueprint for a place."""

    blueprint_id: str
    place: Place


@dataclass(frozen=True, slots=True)
class Served:
    """What was handed out. With a `fallback` it is the identity kernel; `refusal` is there where a check failed."""

    kernel: Kernel
    version: Version | None = None
    fallback: Fallback = ""
    refusal: Refusal | None = None
    cached: bool = False
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """The versions of a query; none, with the reason, where it could not be answered."""

    versions: tuple[Version, ...]
    fallback: Fallback = ""
    elapsed_s: float = 0.0


class UrzaLibrary:
    """Looks up and reads in a thread of its own, so that the caller never waits beyond the limit.

    What comes too late is dropped, but a kernel that was read stays in the cache for the next time. For one calling
    thread. `counts` are events since the start by name; `take_changes` gives the breaker's changes to report.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        kernels: KernelCache,
        *,
        monotonic: MonotonicS,
        limit_s: float = QUERY_LIMIT_S,
        call_limit_s: float = CALL_LIMIT_S,
    ) -> None:
        self.kernels = kernels
        self.counts: Counter[str] = Counter()
        self._catalogue = catalogue
        self._monotonic = monotonic
        self._limit_s = limit_s
        self._call_limit_s = call_limit_s
        self._breaker = CircuitBreaker(
            "urza", failures=3, window_s=60.0, reset_s=30.0, successes=1, monotonic=monotonic
        )
        self._changes: list[BreakerChanged] = []
        self._conservative_until = float("-inf")
        self._served: OrderedDict[Wanted, Version] = OrderedDict()
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="urza")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread; what it is doing is interrupted."""
        self._catalogue.interrupt()
        self._reader.shutdown(wait=True, cancel_futures=True)

    @property
    def breaker_state(self) -> CircuitBreakerState:
        """Closed, open or half-open."""
        return self._breaker.state

    @property
    def conservative(self) -> bool:
        """Whether only memory is served until the time is over."""
        return self._monotonic() < self._conservative_until

    def take_changes(self) -> list[BreakerChanged]:
        """The changes of the breaker since the last call, to be told of."""
        changes, self._changes = self._changes, []
        return changes

    def query(self, query: Query, *, now_ms: int) -> Found:
        """The versions that `query` asks for and whose time is not over at the Unix time `now_ms`."""
        started = self._monotonic()
        if closed := self._closed():
            return Found((), closed)
        found, fallback = self._ask(lambda: self._catalogue.find(query), started)
        kept = [version for version in found or () if not archived(version, now_ms)]
        return Found(tuple(kept), fallback, self._monotonic() - started)

    def serve(self, wanted: Wanted, *, now_ms: int) -> Served:
        """The kernel of the newest version of what is wanted, checked; else the identity kernel."""
        started = self._monotonic()
        closed = self._closed()
        if closed:
            served = self._from_memory(wanted) or Served(IDENTITY, fallback=closed)
        else:
            found, fallback = self._ask(lambda: self._fetch(wanted, now_ms), started)
            served = found or Served(IDENTITY, fallback=fallback)
        return self._counted(served, self._monotonic() - started)

    def _fetch(self, wanted: Wanted, now_ms: int) -> Served:
        """From the catalogue, then memory or object store; in the thread."""
        versions = self._catalogue.find(Query(blueprint_id=wanted.blueprint_id, place=wanted.place, limit=1))
        if not versions or archived(versions[0], now_ms):
            return Served(IDENTITY, fallback="artifact_not_found")
        version = versions[0]
        served = _served(version, self.kernels.fetch(Expected.of_version(version)))
        if served.refusal is None:
            self._remember(wanted, version)
        return served

    def _remember(self, wanted: Wanted, version: Version) -> None:
        with self._lock:
            self._served[wanted] = version
            self._served.move_to_end(wanted)
            if len(self._served) > REMEMBERED:
                self._served.popitem(last=False)

    def _from_memory(self, wanted: Wanted) -> Served | None:
        """What was handed out before, if it is still in memory and still what it was."""
        with self._lock:
            version = self._served.get(wanted)
        held = self.kernels.in_memory(Expected.of_version(version)) if version is not None else None
        return _served(version, held) if version is not None and held is not None else None

    def _closed(self) -> Fallback:
        """Why the catalogue is not to be asked now; empty where it is."""
        self._note(self._breaker.poll())
        if self.conservative:
            return "conservative"
        return "" if self._breaker.allows else "breaker_open"

    def _ask(self, action: Callable[[], Result], started: float) -> tuple[Result | None, Fallback]:
        """What `action` gives, within the limit; a failure and a late answer count against the breaker."""
        future: Future[Result] = self._reader.submit(action)
        try:
            result = future.result(self._limit_s)
        except Late:
            future.cancel()
            self._catalogue.interrupt()
            self._note(self._breaker.failed(f"no answer within {self._limit_s:g} s"))
            return None, "timeout"
        except Exception as error:  # noqa: BLE001 - whatever the catalogue raises, the caller gets the identity
            self._note(self._breaker.failed(f"{type(error).__name__}: {error}"))
            return None, "catalogue_failed"
        elapsed_s = self._monotonic() - started
        if elapsed_s > self._call_limit_s:
            self._note(self._breaker.failed(f"an answer took {elapsed_s:.3f} s"))
        else:
            self._note(self._breaker.succeeded())
        return result, ""

    def _note(self, changes: list[BreakerChanged]) -> None:
        self._changes += changes
        for change in changes:
            if change.to_state == CIRCUIT_BREAKER_STATE_OPEN:
                self.counts["breaker_opened"] += 1
                if change.from_state == CIRCUIT_BREAKER_STATE_HALF_OPEN:
                    self._conservative_until = self._monotonic() + CONSERVATIVE_S

    def _counted(self, served: Served, elapsed_s: float) -> Served:
        if served.refusal is not None:
            self.counts[f"refused.{served.refusal.reason}"] += 1
        elif served.fallback:
            self.counts[f"fallback.{served.fallback}"] += 1
        else:
            self.counts["hit" if served.cached else "miss"] += 1
        return Served(
            served.kernel, served.version, served.fallback, served.refusal, cached=served.cached, elapsed_s=elapsed_s
        )


def _served(version: Version, taken: Fetched) -> Served:
    if isinstance(taken.kernel, Refusal):
        return Served(IDENTITY, version, "refused", taken.kernel)
    return Served(taken.kernel, version, cached=taken.cached)
