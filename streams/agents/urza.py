"""Urza's agent: a prefetch request comes in, its one answer goes out, and what is not there is asked of the forge."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import Final

from contracts.topics import KERNELS
from esper.leyline.envelope import Event
from esper.tezzeret import events as tezzeret
from esper.urza import prefetch
from esper.urza.cache import KernelCache
from esper.urza.library import Served, UrzaLibrary
from esper.urza.prefetch import Nonces
from projections.library import URZA, Library, LibraryReader
from projections.registry import file_of
from streams.app import add_agent
from streams.metrics import Metrics
from streams.objects import object_store
from streams.process import AgentContext
from streams.producer import Publisher
from streams.projection_feed import CATCH_UP_S, ProjectionFeed
from streams.reader import Intake, past
from streams.records import Record

SWEEP_S: Final = 60.0
CACHE_BYTES: Final = 64 * 2**20
"""The worker serves references and keeps kernels only to check them sooner; trainers have caches of their own."""


_tasks: set[asyncio.Task[None]] = set()
logger = logging.getLogger(__name__)


class PrefetchHandler:
    """Answers prefetch requests. An id is used up once its answer is acknowledged, so a failed attempt can be repeated.

    `jobs` are the compile jobs that were asked for; a kernel that is not stored becomes one more (R-TEZ-1).
    """

    def __init__(
        self, library: UrzaLibrary, nonces: Nonces, jobs: set[str], publisher: Publisher, metrics: Metrics
    ) -> None:
        self._library = library
        self._nonces = nonces
        self._jobs = jobs
        self._publisher = publisher
        self._metrics = metrics

    async def handle(self, event: Event, _record: Record) -> None:
        """Answer a KernelPrefetchRequest; the answers on the same topic are this agent's own."""
        if event.WhichOneof("body") != "kernel_prefetch_request":
            return
        started, now_ns = time.perf_counter(), time.time_ns()
        outcome = prefetch.judge(event, self._nonces, now_ns=now_ns)
        if outcome == "accepted":
            await self._answer(event, now_ns)
            self._metrics.observe("esper_urza_prefetch_latency_seconds", time.perf_counter() - started)
            return
        if outcome != "duplicate":
            await self._publisher.publish([prefetch.refusal(event, outcome, now_ns=now_ns)])
        self._metrics.count("esper_urza_prefetch_total", outcome=outcome)

    async def _answer(self, event: Event, now_ns: int) -> None:
        request = event.kernel_prefetch_request
        wanted = prefetch.wanted(request)
        served = await asyncio.to_thread(self._library.serve, wanted, now_ms=now_ns // 1_000_000)
        changes = [
            prefetch.breaker_changed(change, event, ordinal, now_ns=now_ns)
            for ordinal, change in enumerate(self._library.take_changes())
        ]
        missing = [tezzeret.requested_by_prefetch(event, now_ns)] if served.fallback == "artifact_not_found" else []
        new = [request for request in missing if request.compile_requested.job_id not in self._jobs]
        await self._publisher.publish([*changes, *prefetch.answer(event, served, now_ns=now_ns), *new])
        self._nonces.use(request.request_id, event.event_id)
        self._jobs.update(each.compile_requested.job_id for each in new)
        self._count(served)

    def _count(self, served: Served) -> None:
        self._metrics.count("esper_urza_prefetch_total", outcome=served.fallback or "ready")
        self._metrics.observe("esper_urza_query_duration_seconds", served.elapsed_s)
        if served.refusal is not None:
            self._metrics.count("esper_urza_integrity_failures_total", reason=served.refusal.reason)
        elif not served.fallback:
            self._metrics.count("esper_urza_cache_hits_total" if served.cached else "esper_urza_cache_misses_total")
        self.show()

    def show(self) -> None:
        """Set the gauges."""
        kernels = self._library.kernels
        self._metrics.set("esper_urza_cache_evictions", kernels.memory.evictions)
        self._metrics.set("esper_urza_cache_expired", kernels.memory.expired)
        self._metrics.set("esper_urza_cache_size_bytes", kernels.nbytes)
        self._metrics.set("esper_urza_breaker_state", float(self._library.breaker_state))
        self._metrics.set("esper_urza_breaker_openings", self._library.counts["breaker_opened"])
        self._metrics.set("esper_urza_conservative_mode", float(self._library.conservative))
        self._metrics.set("esper_urza_nonce_evictions", self._nonces.evictions)

    async def sweep_forever(self) -> None:
        """Forget what has been in memory for too long, every minute until cancelled."""
        while True:
            self._library.kernels.expire()
            self.show()
            await asyncio.sleep(SWEEP_S)


async def setup(context: AgentContext) -> LibraryReader:
    """Urza's agent on `esper.kernels`, with a catalogue that is up with the log and the ids that were used before.

    Returns a view of the catalogue for the other agents of the process.
    """
    library = Library(file_of(context.settings.data, URZA), context.ring)
    count = library.reader()
    feed = ProjectionFeed(
        [library],
        context.brokers,
        context.metrics,
        after=lambda: context.metrics.set("esper_urza_library_versions", count.count()),
        archive=context.settings.data / "archive",
    )
    feed.lend(count)
    await feed.catch_up(CATCH_UP_S)
    nonces = Nonces()
    async for event in past(context.brokers, context.ring, KERNELS):
        nonces.restore(event)
    kernels = KernelCache(object_store(context.settings.data), time.monotonic, limit_bytes=CACHE_BYTES)
    reader = feed.lend(library.reader())
    handler = PrefetchHandler(
        UrzaLibrary(feed.lend(library.reader()), kernels, monotonic=time.monotonic),
        nonces,
        reader.jobs(),
        context.publisher,
        context.metrics,
    )
    intake = Intake("urza", context.ring, context.publisher, context.metrics, handler.handle)
    add_agent(context.app, "urza", [KERNELS], intake.take)
    for task in (asyncio.create_task(feed.keep()), asyncio.create_task(handler.sweep_forever())):
        _tasks.add(task)
        task.add_done_callback(_ended)
    return reader


def _ended(task: asyncio.Task[None]) -> None:
    """Without its catalogue this process is of no use: it ends, and its supervisor starts another."""
    _tasks.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("urza cannot go on", exc_info=error)
        signal.raise_signal(signal.SIGTERM)
