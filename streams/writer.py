"""Writes events from synchronous code: enqueue and go on; one background thread signs, sends and counts.

Emergency events and facts are *kept*: they go out before all else, emergencies first. `publish` waits while too many
are unacknowledged, and after 30 s without the log it raises LogUnavailable. Telemetry is *sheddable*: from a full queue
on (`streams.pressure`) it is dropped and counted, and a TelemetryShed event says so; so is telemetry that cannot be
written at all. An event takes up room until the log has acknowledged it, not only until it was sent. Source: rulings 1,
2, 23 and 33.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from aiokafka.errors import KafkaError

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.topics import BY_NAME, EMERGENCY
from esper.errors import LogUnavailable
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.leyline.signing import KeyRing
from streams.background import LoopThread
from streams.metrics import Metrics
from streams.not_let_in import unavailable
from streams.pressure import Bypass, Conservative, Writing
from streams.producer import LogProducer, close_producer, send
from streams.records import Outgoing, outgoing

KEPT_LIMIT: Final = 10_000
SHEDDABLE_LIMIT: Final = 4_000
"""With `KEPT_LIMIT` these are the depths at which the original system rerouted and stopped. This many begin a writer's
conservative mode."""
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


class Lane(enum.Enum):
    """How an event travels."""

    EMERGENCY = "emergency"
    FACTS = "facts"
    TELEMETRY = "telemetry"


def lane_of(topic: str) -> Lane:
    """The lane of a topic's events."""
    if topic == EMERGENCY.name:
        return Lane.EMERGENCY
    return Lane.TELEMETRY if BY_NAME[topic].sheddable else Lane.FACTS


@dataclass(frozen=True, slots=True)
class Entry:
    """One event on its way, and when it was enqueued (seconds of a monotonic clock); `halts` is of an emergency."""

    outgoing: Outgoing
    lane: Lane
    enqueued_at: float
    halts: bool = False


class Backlog:
    """Safe for several threads. Emergencies have no bound: nothing drops one at any depth, or lets it wait for room."""

    def __init__(self, kept_limit: int = KEPT_LIMIT, sheddable_limit: int = SHEDDABLE_LIMIT) -> None:
        self._kept_limit = kept_limit
        self._bypass = Bypass()
        self.pressure = Conservative(sheddable_limit)
        self._waiting: dict[Lane, deque[Entry]] = {lane: deque() for lane in Lane}
        self._outstanding = dict.fromkeys(Lane, 0)
        self._changed = threading.Condition()
        self._asleep = dict.fromkeys((True, False), False)
        self._failure: BaseException | None = None
        self.shed = 0
        self.deepest = 0

    @property
    def depth(self) -> int:
        """Events that the log has not acknowledged yet."""
        return sum(self._outstanding.values())

    @property
    def kept(self) -> int:
        """Those of them that are no telemetry."""
        return self._outstanding[Lane.EMERGENCY] + self._outstanding[Lane.FACTS]

    @property
    def failure(self) -> BaseException | None:
        """Why an event was given up, if one was."""
        return self._failure

    def put(self, entry: Entry, timeout_s: float, *, sheddable: bool = True) -> bool:
        """Add an entry; False where it was shed.

        A fact waits up to `timeout_s` for room. Raises TimeoutError after that; nothing was added then. Telemetry that
        is not `sheddable` (the report of what was shed) is added even to a full queue.
        """
        lane = entry.lane
        with self._changed:
            if lane is Lane.TELEMETRY and sheddable and self.pressure.sheds(self._outstanding[lane], entry.enqueued_at):
                self.shed += 1
                return False
            if lane is Lane.EMERGENCY and not self._bypass.allows(entry.enqueued_at, halts=entry.halts):
                entry = replace(entry, lane=Lane.FACTS)  # in line with the facts, but without waiting for room
            elif lane is Lane.FACTS and not self._changed.wait_for(self._has_room, timeout_s):
                raise TimeoutError
            self._waiting[entry.lane].append(entry)
            self._outstanding[entry.lane] += 1
            self.deepest = max(self.deepest, self.depth)
            return True

    def take(self, *, kept: bool) -> Entry | None:
        """The next entry to send, of the kept lanes or of telemetry; None where none waits: the sender may sleep."""
        lanes = (Lane.EMERGENCY, Lane.FACTS) if kept else (Lane.TELEMETRY,)
        with self._changed:
            for lane in lanes:
                if self._waiting[lane]:
                    return self._waiting[lane].popleft()
            self._asleep[kept] = True
            return None

    def rouse(self, *, kept: bool) -> bool:
        """Whether that sender sleeps and must be woken; from now on it counts as awake."""
        with self._changed:
            asleep, self._asleep[kept] = self._asleep[kept], False
            return asleep

    def done(self, entry: Entry, failure: BaseException | None = None) -> None:
        """The log acknowledged an entry, or it was given up for `failure`."""
        with self._changed:
            self._outstanding[entry.lane] -= 1
            if failure is not None and entry.lane is not Lane.TELEMETRY:
                self._failure = failure
            elif entry.lane is Lane.TELEMETRY:
                self._judge(failure)
            self._changed.notify_all()

    @property
    def queued(self) -> int:
        """Emergencies that overtook nothing, because too many had within a minute."""
        return self._bypass.queued

    def relax(self, now: float) -> None:
        """Let time pass: without telemetry nothing else ends a conservative mode."""
        with self._changed:
            self.pressure.relax(self._outstanding[Lane.TELEMETRY], now)

    def _judge(self, failure: BaseException | None) -> None:
        """A telemetry event was acknowledged or given up."""
        if failure is not None:
            self.pressure.failed(str(failure) or type(failure).__name__, time.monotonic())
        elif self.pressure.troubled:
            self.pressure.succeeded(time.monotonic())

    def fail(self, failure: BaseException) -> None:
        """Nothing will be sent any more: wake everyone who waits."""
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def wait_until_kept(self, timeout_s: float) -> bool:
        """Wait until every kept entry is acknowledged or one is given up; False after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self.kept == 0 or self._failure is not None, timeout_s)

    def _has_room(self) -> bool:
        return self._outstanding[Lane.FACTS] < self._kept_limit or self._failure is not None


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
        self._shed_reported = self._queued_reported = 0
        self._mode_reported = ""
        self._writing = Writing()
        self._last_run_id = ""
        self._place: tuple[bytes, int] | None = None
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
        record = self._writing.record(event, time.monotonic())
        if record is None:
            self.metrics.count("esper_oona_publish_dropped_total")
            return
        lane = lane_of(record.topic)
        if lane is not Lane.TELEMETRY and self._backlog.failure is not None:
            raise unavailable(self.brokers, "take a fact", self._backlog.failure)
        self._last_run_id = event.run_id
        if lane is Lane.EMERGENCY or self._backlog.kept >= NUDGE_AT:
            self.nudge()
        halts = lane is Lane.EMERGENCY and event.emergency_signal.level >= leyline_pb2.EMERGENCY_LEVEL_HALT
        try:
            added = self._backlog.put(Entry(record, lane, time.monotonic(), halts), UNAVAILABLE_AFTER_S)
        except TimeoutError:
            raise self._not_acknowledged(UNAVAILABLE_AFTER_S) from None
        if not added:
            self.metrics.count("esper_oona_publish_dropped_total")

    def keep(self, key: bytes, partition: int) -> None:
        """From now on what has this key goes to this partition of its topic, wherever the key's hash lies."""
        self._place = (key, partition)

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
        return self._backlog.shed + self._writing.unwritten

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
            "are its brokers up, enough of them for the copies that must be in sync, and their disks not full? "
            "(`esper doctor` looks closer)"
        )

    # Everything below runs on the background loop.

    async def _start(self) -> LogProducer:
        self._wake = asyncio.Event()
        producer = LogProducer(self.brokers, request_timeout_s=EXPIRE_S)
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
        self._report_pressure()
        self._report_shed()
        await asyncio.sleep(2 * TICK_S)  # the pumps hand over what still waits
        for task in self._tasks:
            task.cancel()
        await close_producer(self._producer, timeout_s)

    async def _pump(self, producer: LogProducer, *, kept: bool) -> None:
        """Send one lane's entries in their order, for ever. Two pumps, so that telemetry never stands before a fact."""
        sent = 0
        while True:
            entry = self._backlog.take(kept=kept)
            if entry is None:
                await self._pause(kept=kept)
                continue
            try:
                future = await send(producer, self._ring, entry.outgoing, self._partition_of(entry.outgoing))
            except Exception as error:  # noqa: BLE001 - whatever it is, the writer must hear of it and not wait
                self._backlog.done(entry, error)
            else:
                future.add_done_callback(partial(self._acknowledged, entry))
            sent += 1
            if sent % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    def _partition_of(self, record: Outgoing) -> int | None:
        """The partition that is kept for what has this record's key, if there is one."""
        return self._place[1] if self._place is not None and self._place[0] == record.key else None

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

    async def _watch(self, producer: LogProducer) -> None:
        """Keep the gauges, report what was shed, and ask the log for a sign of life while nothing is written.

        Nothing waits for that sign: a log that hangs must not keep the gauges from saying so.
        """
        asking: asyncio.Future[bool] | None = None
        try:
            while True:
                self.metrics.set("esper_oona_queue_depth", self.depth, writer=self._name)
                self.metrics.set("esper_oona_queue_depth_max", self.deepest)
                self._report_pressure()
                self._report_shed()
                if asking is not None and asking.done():
                    if not asking.cancelled() and asking.exception() is None and asking.result():
                        self._log_answered_at = time.monotonic()
                    asking = None
                if asking is None and time.monotonic() - self._log_answered_at >= LOG_CHECK_S:
                    asking = asyncio.ensure_future(producer.client.force_metadata_update())
                self.metrics.set("esper_oona_log_up", 0.0 if self.trouble() else 1.0)
                await asyncio.sleep(WATCH_S)
        finally:
            if asking is not None:
                asking.cancel()

    def _report_pressure(self) -> None:
        """Keep the gauges of what gives way, and say when the conservative mode begins and ends."""
        self._backlog.relax(time.monotonic())
        pressure, queued = self._backlog.pressure, self._backlog.queued
        self.metrics.set("esper_oona_conservative_mode", float(pressure.on), writer=self._name)
        for breaker in (pressure.breaker, self._writing.breaker):
            self.metrics.set("esper_oona_breaker_state", breaker.state, breaker=breaker.name)
        if queued > self._queued_reported:
            self.metrics.count("esper_oona_emergency_queued_total", queued - self._queued_reported)
            self._queued_reported = queued
        reason = pressure.reason
        if reason == self._mode_reported:
            return
        self._mode_reported = reason
        entered = bool(reason)
        level = leyline_pb2.TELEMETRY_LEVEL_WARNING if entered else leyline_pb2.TELEMETRY_LEVEL_INFO
        told = leyline_pb2.TelemetryEvent(
            event_id=f"oona.conservative_{'entered' if entered else 'exited'}",
            description=f"{reason}: no telemetry of normal priority is written" if entered else "telemetry is written",
            level=level,
            attributes={"writer": self._name},
        )
        event_id, now_ns = ids.uuid7(time.time_ns(), os.urandom(10)), time.time_ns()
        packet = leyline_pb2.TelemetryPacket(
            packet_id=ids.text(event_id), source_subsystem="oona", level=level, events=[told]
        )
        packet.timestamp.FromNanoseconds(now_ns)
        event = new_event(
            packet, event_id=event_id, run_id=self._last_run_id, producer=self._name, recorded_at_ns=now_ns
        )
        record = outgoing(event)
        self._backlog.put(Entry(record, lane_of(record.topic), time.monotonic()), 0.0, sheddable=False)

    def _report_shed(self) -> None:
        """Say how much telemetry was shed since the last report; the report itself is never shed."""
        total = self.shed()
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
            priority=leyline_pb2.MESSAGE_PRIORITY_HIGH,
        )
        self._shed_reported = total
        self._backlog.put(Entry(outgoing(event), Lane.TELEMETRY, time.monotonic()), 0.0, sheddable=False)
