"""Writes events from synchronous code: enqueue and go on; one background thread signs, sends and counts.

Facts are never dropped: `publish` waits while too many are unacknowledged, and after 30 s without the log it raises
LogUnavailable. Telemetry is shed instead, counted, and a TelemetryShed event says so. Emergencies overtake facts.
Source: rulings 1, 2 and 23.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from contracts.leyline.v1 import event_pb2
from esper.errors import LogUnavailable
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.leyline.signing import KeyRing
from streams.background import LoopThread
from streams.backlog import KEPT_LIMIT, SHEDDABLE_LIMIT, Backlog, Entry, Lane, lane_of
from streams.metrics import Metrics
from streams.producer import close_producer, make_producer, send, unavailable
from streams.records import outgoing

UNAVAILABLE_AFTER_S: Final = 30.0
"""Without the log for this long, whoever writes facts stops (ruling 23)."""
EXPIRE_S: Final = 40.0
"""aiokafka gives an unacknowledged batch up after this; later than the writer itself, so no fact is lost in silence."""
TICK_S: Final = 0.05
"""How long telemetry gathers before it is sent, and facts that nobody waits for."""
NUDGE_AT: Final = 256
YIELD_EVERY: Final = 32
WATCH_S: Final = 1.0
LOG_CHECK_S: Final = 2.0
CONNECT_S: Final = 10.0
CLOSE_S: Final = 1.0


class LogWriter:
    """A started writer. `producer` is what events of its own (TelemetryShed) name as their producer.

    Raises LogUnavailable where no broker answers within 10 s. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        brokers: str,
        ring: KeyRing,
        *,
        producer: str,
        metrics: Metrics,
        kept_limit: int = KEPT_LIMIT,
        sheddable_limit: int = SHEDDABLE_LIMIT,
    ) -> None:
        self.brokers = brokers
        self.metrics = metrics
        self.thread = LoopThread(f"esper-log-{producer}")
        self._ring = ring
        self._name = producer
        self._backlog = Backlog(kept_limit, sheddable_limit)
        self._shed_reported = 0
        self._last_run_id = ""
        self._log_answered_at = 0.0
        self._closed = False
        try:
            self._producer = self.thread.run(self._start(), CONNECT_S)
        except (KafkaError, OSError, TimeoutError) as error:
            self.thread.stop()
            raise unavailable(brokers, "answer", error) from None

    def publish(self, event: Event) -> None:
        """Enqueue an event; it takes at most 50 µs unless it is a fact and the queue is full.

        Emergencies are sent at once, and facts as soon as somebody waits for them (`flush`) or after 50 ms.

        Raises LogUnavailable where the log took nothing for 30 s or gave a fact up, and ContractViolation for an event
        that is too large.
        """
        record = outgoing(event)
        lane = lane_of(record.topic)
        if lane is not Lane.TELEMETRY and self._backlog.failure is not None:
            raise unavailable(self.brokers, "take a fact", self._backlog.failure)
        self._last_run_id = event.run_id
        if lane is Lane.EMERGENCY or self._backlog.kept >= NUDGE_AT:
            self.nudge()
        try:
            added = self._backlog.put(Entry(record, lane, time.monotonic()), UNAVAILABLE_AFTER_S)
        except TimeoutError:
            raise self._not_acknowledged(UNAVAILABLE_AFTER_S) from None
        if not added:
            self.metrics.count("esper_oona_publish_dropped_total")

    def nudge(self) -> None:
        """Have facts sent now instead of within 50 ms. Waking the thread costs a system call, enqueueing none."""
        if self._backlog.rouse(kept=True):
            self.thread.call_soon(self._wake.set)

    def flush(self, timeout_s: float = UNAVAILABLE_AFTER_S) -> None:
        """Wait until every fact and emergency published so far is acknowledged.

        Raises LogUnavailable after `timeout_s`, or as soon as one was given up.
        """
        self.nudge()
        if not self._backlog.wait_until_kept(timeout_s):
            raise self._not_acknowledged(timeout_s)
        if self._backlog.failure is not None:
            raise unavailable(self.brokers, "take a fact", self._backlog.failure)

    def shed(self) -> int:
        """How many telemetry events were shed so far."""
        return self._backlog.shed

    @property
    def depth(self) -> int:
        """How many events wait for their acknowledgement."""
        return self._backlog.depth

    @property
    def deepest(self) -> int:
        """The most that ever waited."""
        return self._backlog.deepest

    def trouble(self) -> str | None:
        """Why the log is not well as this process sees it; None while it answers."""
        if self._backlog.failure is not None:
            return f"gave up: {self._backlog.failure}"
        silent_s = time.monotonic() - self._log_answered_at
        return None if silent_s < 3 * LOG_CHECK_S else f"the log at {self.brokers} is silent for {silent_s:.0f} s"

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what waits, for at most `timeout_s`, and end the thread. Call `flush` first where it matters."""
        if self._closed:
            return
        self._closed = True
        self.nudge()
        self._backlog.wait_until_kept(timeout_s)
        with contextlib.suppress(TimeoutError):  # a log that is gone; the thread's end cancels what still waits for it
            self.thread.run(self._stop(timeout_s), timeout_s + CLOSE_S)
        self.thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _not_acknowledged(self, timeout_s: float) -> LogUnavailable:
        return LogUnavailable(
            f"the log at {self.brokers} left {self._backlog.kept} events unacknowledged for {timeout_s:g} s: "
            "is the broker up and its disk not full? (`esper doctor` looks closer)"
        )

    # Everything below runs on the background loop.

    async def _start(self) -> AIOKafkaProducer:
        self._wake = asyncio.Event()
        producer = make_producer(self.brokers, request_timeout_s=EXPIRE_S)
        try:
            await producer.start()
        except BaseException:
            await close_producer(producer, timeout_s=0.1)
            raise
        self._log_answered_at = time.monotonic()
        self._tasks = [
            asyncio.create_task(self._pump(producer, kept=True)),
            asyncio.create_task(self._pump(producer, kept=False)),
            asyncio.create_task(self._watch(producer)),
        ]
        return producer

    async def _stop(self, timeout_s: float) -> None:
        self._report_shed()
        await asyncio.sleep(2 * TICK_S)  # the pumps hand over what still waits
        for task in self._tasks:
            task.cancel()
        await close_producer(self._producer, timeout_s)

    async def _pump(self, producer: AIOKafkaProducer, *, kept: bool) -> None:
        """Send one lane's entries in their order, for ever. Two pumps, so that telemetry never stands before a fact."""
        sent = 0
        while True:
            entry = self._backlog.take(kept=kept)
            if entry is None:
                await self._pause(kept=kept)
                continue
            try:
                future = await send(producer, self._ring, entry.outgoing)
            except Exception as error:  # noqa: BLE001 - whatever it is, the writer must hear of it and not wait
                self._backlog.done(entry, error)
            else:
                future.add_done_callback(partial(self._acknowledged, entry))
            sent += 1
            if sent % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    async def _pause(self, *, kept: bool) -> None:
        """Sleep for a tick; facts can be woken, telemetry gathers."""
        if not kept:
            await asyncio.sleep(TICK_S)
            return
        timer = asyncio.get_running_loop().call_later(TICK_S, self._wake.set)
        await self._wake.wait()
        timer.cancel()
        self._wake.clear()

    def _acknowledged(self, entry: Entry, future: asyncio.Future[Any]) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        self._backlog.done(entry, error)
        if error is not None:
            return
        now = time.monotonic()
        self._log_answered_at = now
        self.metrics.count("esper_oona_publish_total", topic=entry.outgoing.topic)
        self.metrics.observe("esper_oona_publish_latency_seconds", now - entry.enqueued_at)
        if entry.lane is Lane.EMERGENCY:
            self.metrics.count("esper_oona_emergency_published_total")

    async def _watch(self, producer: AIOKafkaProducer) -> None:
        """Keep the gauges, report what was shed, and ask the log for a sign of life while nothing is written."""
        while True:
            self.metrics.set("esper_oona_queue_depth", self.depth, writer=self._name)
            self.metrics.set("esper_oona_queue_depth_max", self.deepest)
            self._report_shed()
            silent_s = time.monotonic() - self._log_answered_at
            if silent_s >= LOG_CHECK_S and await producer.client.force_metadata_update():
                self._log_answered_at = time.monotonic()
            self.metrics.set("esper_oona_log_up", 0.0 if self.trouble() else 1.0)
            await asyncio.sleep(WATCH_S)

    def _report_shed(self) -> None:
        """Say how much telemetry was shed since the last report; the report itself is never shed."""
        total = self._backlog.shed
        if total == self._shed_reported:
            return
        event = new_event(
            event_pb2.TelemetryShed(
                count=total - self._shed_reported, total=total, reason=f"{self._backlog.depth} events waited"
            ),
            event_id=ids.uuid7(time.time_ns(), os.urandom(10)),
            run_id=self._last_run_id,
            producer=self._name,
            recorded_at_ns=time.time_ns(),
        )
        self._shed_reported = total
        self._backlog.put(Entry(outgoing(event), Lane.TELEMETRY, time.monotonic()), 0.0, sheddable=False)
