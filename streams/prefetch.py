"""The trainer's kernels: asked of Urza ahead, on the log's thread, so that they are in memory when a seed germinates.

Requests go out through the trainer's writer, before its first step. A consumer of its own reads the answers, and the
news of the catalogue by which a kernel that was not there yet is asked for again; commands are read by another one, so
nothing of this stands between a decision and the trainer. An artifact is read and checked in a thread beside the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Final

from aiokafka.errors import KafkaError

from contracts.leyline.v1.leyline_pb2 import KernelPrefetchRequest
from contracts.topics import BLUEPRINTS, KERNELS
from esper.errors import ContractViolation, LogUnavailable
from esper.leyline import envelope, ids
from esper.leyline.envelope import Event, body_name, new_event
from esper.leyline.signing import KeyRing
from esper.urza.artifact import Expected, Kernel, Refusal
from esper.urza.cache import KernelCache
from esper.urza.library import Wanted
from esper.urza.prefetch import refused_artifact
from esper.urza.requests import KernelRequests
from streams.consumer import LogConsumer
from streams.metrics import Metrics
from streams.reader import record_of, violation
from streams.records import Record, Refused, verified
from streams.refusals import Refusals
from streams.writer import LogWriter

LOOK_S: Final = 0.5
"""How often requests that are to be made again are looked for."""
FIRST_ANSWERS_S: Final = 1.0
"""How long `want` waits for the library, before a run's first step: a small run germinates a tenth of a second later,
and its kernels would always come too late."""
RETRY_S: Final = 1.0
POLL_MS: Final = 10_000
"""How long an idle look at the log lasts; a record ends it."""
STOP_S: Final = 1.0

logger = logging.getLogger(__name__)


class Prefetch:
    """The trainer's view of the library: `esper.tolaria.outside.KernelSource`. Close it before the writer."""

    def __init__(
        self,
        writer: LogWriter,
        ring: KeyRing,
        kernels: KernelCache,
        *,
        run_id: str,
        metrics: Metrics,
        producer: str = "trainer",
    ) -> None:
        self._writer = writer
        self._ring = ring
        self._metrics = metrics
        self._run_id = run_id
        self._refusals = Refusals()
        self._name = producer
        self._since_ns = time.time_ns()
        self._requests = KernelRequests(kernels, time.monotonic)
        self._reading: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._settled = threading.Event()
        self._task = writer.thread.spawn(self._keep())

    def want(self, wanted: Sequence[Wanted]) -> None:
        """Begin to fetch these, in this order; returns when each was answered, and after a second whatever came."""
        self._settled.clear()
        self._requests.add(wanted)
        self._writer.thread.call_soon(self._wake.set)
        if wanted and not self._settled.wait(FIRST_ANSWERS_S):
            logger.info("the library has not answered within %g s; its kernels may come later", FIRST_ANSWERS_S)

    def take(self, wanted: Wanted) -> Kernel | Refusal | None:
        """The kernel, checked just now; why it cannot be used; None where the library has none yet. Never waits."""
        found = self._requests.kernel(wanted)
        if isinstance(found, Kernel):
            self._metrics.count("esper_urza_cache_hits_total")
        elif found is None:
            self._metrics.count("esper_urza_cache_misses_total")
        return found

    def close(self) -> None:
        """Ask for nothing more and disconnect."""
        self._task.cancel()

    # Everything below runs on the writer's loop.

    async def _keep(self) -> None:
        """Ask and listen until cancelled. What goes wrong here costs kernels and never the run."""
        while True:
            try:
                async with self._connected() as consumer:
                    await asyncio.gather(self._ask(), self._listen(consumer))
            except (KafkaError, OSError) as error:
                logger.warning("no kernels are prefetched while the log is away: %s", error)
                await asyncio.sleep(RETRY_S)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[LogConsumer]:
        """A consumer at the log's end: no answer is missed, because positions are known before anything is asked.

        Where the log has deleted what it was at, it goes on with what is left, and not at the end again.
        """
        consumer = LogConsumer(bootstrap_servers=self._writer.brokers, urgent=True, auto_offset_reset="earliest")
        try:
            await consumer.start()
            places = await consumer.places(KERNELS, BLUEPRINTS)
            consumer.assign(places)
            await consumer.seek_to_end(*places)
            for place in places:
                await consumer.position(place)
            yield consumer
        finally:
            with contextlib.suppress(TimeoutError, KafkaError):
                async with asyncio.timeout(STOP_S):
                    await consumer.stop()

    async def _ask(self) -> None:
        while True:
            for wanted in self._requests.due():
                event = self._request(wanted)
                self._requests.asked(wanted, event.kernel_prefetch_request.request_id)
                try:
                    self._writer.publish(event)
                except LogUnavailable:
                    return  # the training loop hears of it at its next fact
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            self._wake.clear()

    def _request(self, wanted: Wanted) -> Event:
        now_ns = time.time_ns()
        request_id = uuid.uuid4()
        body = KernelPrefetchRequest(
            request_id=f"prefetch-{request_id}",
            blueprint_id=wanted.blueprint_id,
            training_run_id=self._run_id,
            shape_kind=wanted.place.shape_kind,
            shape=wanted.place.shape,
            parameters=wanted.place.settings,
        )
        body.issued_at.FromNanoseconds(now_ns)
        return new_event(
            body,
            event_id=ids.uuid7(now_ns, request_id.bytes[:10]),
            run_id=self._run_id,
            producer=self._name,
            recorded_at_ns=now_ns,
        )

    async def _listen(self, consumer: LogConsumer) -> None:
        while True:
            await consumer.take_in_added()
            for messages in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                for message in messages:
                    self._arrived(record_of(message))

    def _arrived(self, record: Record) -> None:
        event = verified(record, self._ring, since_ns=self._since_ns)
        if isinstance(event, Refused):
            self._refused(record, event)
            return
        match body_name(event):
            case "kernel_artifact_ready":
                expected = self._requests.ready(event.kernel_artifact_ready)
                if expected is not None:
                    task = asyncio.create_task(self._read(expected, event))
                    self._reading.add(task)
                    task.add_done_callback(self._reading.discard)
            case "kernel_artifact_error":
                self._requests.failed(event.kernel_artifact_error.request_id, event.kernel_artifact_error.reason)
                self._tell_settled()
            case "kernel_catalog_update":
                self._requests.catalogued(event.kernel_catalog_update.blueprint_id)

    async def _read(self, expected: Expected, answer: Event) -> None:
        taken = await asyncio.to_thread(self._requests.kernels.fetch, expected)
        self._requests.read(expected, taken.kernel)
        self._tell_settled()
        if isinstance(taken.kernel, Refusal):
            self._metrics.count("esper_urza_integrity_failures_total", reason=taken.kernel.reason)
            told = refused_artifact(answer, expected, taken.kernel, now_ns=time.time_ns(), producer=self._name)
            with contextlib.suppress(LogUnavailable):
                self._writer.publish(told)

    def _tell_settled(self) -> None:
        if self._requests.settled:
            self._settled.set()

    def _refused(self, record: Record, refused: Refused) -> None:
        """A signature that does not hold: told of by the run that the record claims to be for."""
        self._metrics.count("esper_security_signature_fail_total", topic=record.topic, reason=refused.reason)
        try:
            claimed = envelope.parse(record.signed.payload).run_id
        except ContractViolation:
            return
        if claimed == self._run_id and self._refusals.first(record, refused.reason):
            with contextlib.suppress(LogUnavailable):
                self._writer.publish(violation(record, refused, producer=self._name, run_id=self._run_id))
