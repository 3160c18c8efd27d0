"""The trainer's log on Kafka: `esper.tolaria.outside.Log` for synchronous code.

Facts and telemetry go out through a `LogWriter`. On the same background thread a consumer of its own reads
`esper.commands`: one partition, no group, from where the log ends at the start, so that no join and no other topic
stands between a decision and the trainer; and what there is of emergencies for this run or for all, which is rare.
`Answers` pairs what arrives with the packets that were published. A second
consumer reads `esper.runs` in the same way, for the claims to this run alone: whoever starts or resumes it first owns
it, and in any other process every call here raises Superseded. (With one consumer for both a fetch that waits for facts
was measured to hold decisions up by its 100 ms.)
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Final, Self

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from contracts.leyline.v1.leyline_pb2 import EMERGENCY_LEVEL_CONSERVATIVE
from contracts.topics import COMMANDS, EMERGENCY, RUNS, Topic
from esper.errors import ContractViolation, EsperError, LogUnavailable
from esper.leyline import envelope
from esper.leyline.envelope import Event, body_name, tag_of
from esper.leyline.signing import KeyRing, Signed
from esper.record.accept import CLAIMS
from esper.tolaria.outside import Answer, Heard
from projections.manifest import Place
from streams.claims import Claims
from streams.consumer import LogConsumer
from streams.metrics import Metrics
from streams.not_let_in import unavailable
from streams.reader import record_of, violation
from streams.records import Record, Refused, outgoing, verified
from streams.refusals import Refusals
from streams.writer import UNAVAILABLE_AFTER_S, LogWriter

CONNECT_S: Final = 10.0
SUMMARY_S: Final = 10.0
"""R-OPS-5: how often the queue's state goes out as telemetry."""
RETRY_S: Final = 0.1
CATCH_UP_S: Final = 25.0
"""Longer than what the log has deleted is looked for in the archive (`weatherlight.beginning`)."""
OWN: Final = ("tolaria", "tamiyo", "weatherlight", "nissa")
"""Whose emergencies ask nothing of a trainer: Esper's own processes decide by decisions, guards and rollbacks."""
_SIGNAL: Final = tag_of("emergency_signal")
logger = logging.getLogger(__name__)


class Answers:
    """Safe for two threads: one brings what arrived, the other publishes packets and waits.

    A packet is open from `expect` until `wait` returns. A decision for an open packet, together with the command it
    names, is its answer; every other command is loose: late, or from a person. A record that comes again byte for byte
    is dropped here already, so that an applied command is never taken for a late one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: set[bytes] = set()
        self._announced: dict[bytes, tuple[bytes, Signed]] = {}  # command id -> the packet and decision that named it
        self._complete: dict[bytes, Answer] = {}
        self._loose: list[Signed] = []
        self._seen: set[bytes] = set()
        self._given_up = self._roused = False

    def expect(self, packet_id: bytes) -> None:
        """A packet goes out now; call it before the packet can be answered."""
        with self._changed:
            self._open.add(packet_id)

    def wait(self, packet_id: bytes, timeout_s: float) -> Answer | None:
        """The answer to a packet, or None after `timeout_s`; from then on its command is loose."""
        with self._changed:
            self._open.add(packet_id)
            self._changed.wait_for(lambda: packet_id in self._complete or self._given_up, timeout_s)
            self._open.discard(packet_id)
            return self._complete.pop(packet_id, None)

    def give_up(self) -> None:
        """Nobody is to wait any longer."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def known(self, signed: Signed) -> None:
        """A record that was dealt with before: if it comes again, it is dropped."""
        with self._changed:
            self._seen.add(hashlib.sha256(signed.payload).digest())

    def take_loose(self) -> list[Signed]:
        """The loose commands since the last call, oldest first."""
        if not self._loose:  # asked before every step: what arrives just now is taken at the next
            return []
        with self._changed:
            loose, self._loose = self._loose, []
            return loose

    def wait_loose(self, timeout_s: float) -> None:
        """Wait until there is a loose command or `rouse` is called, at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._loose or self._given_up or self._roused, timeout_s)
            self._roused = False

    def rouse(self) -> None:
        """Something else has come: whoever waits for a loose command is to look."""
        with self._changed:
            self._roused = True
            self._changed.notify_all()

    def arrived(self, event: Event, signed: Signed) -> None:
        """A decision or command of this run whose signature holds."""
        digest = hashlib.sha256(signed.payload).digest()
        with self._changed:
            if digest in self._seen:
                return
            self._seen.add(digest)
            match body_name(event):
                case "decision_made":
                    self._decision(event, signed)
                case "adaptation_command":
                    self._command(event, signed)

    def arrived_unverified(self, signed: Signed) -> None:
        """A command whose signature does not hold: no answer, but the trainer records that it rejected it."""
        with self._changed:
            self._loose.append(signed)
            self._changed.notify_all()

    def _decision(self, event: Event, signed: Signed) -> None:
        packet_id, command_id = event.decision_made.packet_id, event.decision_made.command_id
        if packet_id not in self._open:
            return  # late: its command, if there is one, comes next and is loose
        if command_id:
            self._announced[command_id] = (packet_id, signed)
        else:
            self._finish(packet_id, Answer(signed, None))

    def _command(self, event: Event, signed: Signed) -> None:
        packet_id, decision = self._announced.pop(event.event_id, (b"", None))
        if decision is not None and packet_id in self._open:
            self._finish(packet_id, Answer(decision, signed))
        else:
            self._loose.append(signed)
            self._changed.notify_all()

    def _finish(self, packet_id: bytes, answer: Answer) -> None:
        # The first answer counts; a second one would be another decision on the same packet.
        self._complete.setdefault(packet_id, answer)
        self._changed.notify_all()


class KafkaLog:
    """A started log for one run's trainer. Raises LogUnavailable where no broker answers within 10 s.

    It returns when the end of both topics is known, which `ends` has: no decision on anything published afterwards can
    be missed, and no claim either. `archived` are offsets: claims are looked for from there on, and not from the end on
    alone, where somebody may have used the run's id before. What the log deletes before it is read here `gone` finds:
    the claims to the run in its partition between two offsets. A run that began before is on `partition`: it stays
    there, also where somebody has added partitions since.
    """

    def __init__(
        self,
        brokers: str,
        ring: KeyRing,
        *,
        run_id: str,
        metrics: Metrics,
        producer: str = "trainer",
        archived: Mapping[Place, int] | None = None,
        gone: Callable[[int, int, int], Iterable[Record]] = lambda _partition, _first, _end: (),
        partition: int | None = None,
    ) -> None:
        self.run_id = run_id
        self._key = run_id.encode()
        self.writer = LogWriter(brokers, ring, producer=producer, metrics=metrics)
        self._ring = ring
        self._metrics = metrics
        self._name = producer
        self._answers = Answers()
        self._claims = Claims(run_id)
        self._refusals, self._refused_commands = Refusals(), Refusals()
        self._signals: deque[Heard] = deque()
        self.ends: dict[Place, int] = {}
        self._archived = archived
        self._gone = gone
        self._next = self._log_begins = self._runs_end = self._partition = 0
        self._unknown = ""
        self._caught_up = threading.Event()
        if archived is None:
            self._caught_up.set()
        self._closed = False
        self._since_ns = time.time_ns()
        try:
            self._commands, self._runs = self.writer.thread.run(self._connect(brokers, partition), CONNECT_S)
        except (KafkaError, OSError, TimeoutError) as error:
            self.writer.close()
            raise unavailable(brokers, "answer", error) from None
        self.writer.keep(self._key, self._partition)
        following = (self._follow(self._commands, self._arrived), self._follow_runs())
        self._tasks = [self.writer.thread.spawn(task) for task in (*following, self._summarise())]

    def publish(self, event: Event) -> None:
        """Enqueue an event (at most 50 µs). Facts wait while the queue is full; telemetry is shed and counted."""
        self._claims.check()
        body = event.WhichOneof("body")
        match body:
            case "epoch_completed":
                self._answers.expect(event.event_id)
            case "adaptation_command":  # a fork's own, which it carries out itself: it comes back with the others
                self._answers.known(Signed(outgoing(event).payload))
        self.writer.publish(event)
        if body == "seed_transitioned":  # a digest is stored next, for milliseconds, and then somebody waits for both
            self.writer.nudge()

    def flush(self, timeout_s: float = UNAVAILABLE_AFTER_S) -> None:
        """Wait until every fact published so far is acknowledged; raises LogUnavailable after `timeout_s`."""
        self.writer.flush(timeout_s)
        self._claims.check()

    def await_answer(self, packet_id: bytes, timeout_s: float) -> Answer | None:
        """Wait for the answer to a packet; None after `timeout_s`."""
        self.writer.nudge()
        answer = self._answers.wait(packet_id, timeout_s)
        self._claims.check()
        return answer

    def claim(self, event: Event, timeout_s: float = UNAVAILABLE_AFTER_S) -> None:
        """Publish a run's start or RunResumed and wait until the run is this process's.

        Raises Superseded where another process was first, and publishes nothing where that is known already; and
        LogUnavailable where it cannot be known, because neither the log nor the archive has the claims any more.
        """
        self._claims.make(event)
        self._caught_up.wait(CATCH_UP_S)  # so that nothing is published where the run has been another's for long
        self._claims.check()
        if self._unknown:
            raise LogUnavailable(f"who has started run {self.run_id} before is not known: {self._unknown}")
        self.writer.publish(event)
        self.writer.flush(timeout_s)
        self._claims.await_own(timeout_s)
        self._runs.gather()  # what comes now are this run's own facts, and another's claim

    def catch_up(self, open_packet: bytes, requests: Iterable[tuple[Event, Signed]], known: Iterable[Signed]) -> None:
        """Take in what arrived before this process: the answer to `open_packet`, and `requests` that nobody answered.

        What is `known` was dealt with, and is dropped if it comes again.
        """
        for signed in known:
            self._answers.known(signed)
        if open_packet:
            self._answers.expect(open_packet)
        for event, signed in requests:
            self._answers.arrived(event, signed)

    def take_commands(self) -> list[Signed]:
        """Commands that arrived since the last call and answer no packet that was waited for.

        They are late, or from a person, or their signature does not hold: judge each before applying it.
        """
        self._claims.check()
        return self._answers.take_loose()

    def await_command(self, timeout_s: float) -> None:
        """Wait until a command has arrived that answers no packet, at most so long."""
        self._answers.wait_loose(timeout_s)
        self._claims.check()

    def take_signals(self) -> list[Heard]:
        """The emergencies of others than Esper's own processes, for this run or for all, since the last call."""
        heard = []
        while self._signals:
            heard.append(self._signals.popleft())
        return heard

    def shed(self) -> int:
        """How many telemetry events were shed so far."""
        return self.writer.shed()

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what waits, for at most `timeout_s`, and disconnect."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            self.writer.thread.run(self._disconnect(), timeout_s)
        self.writer.close(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Everything below runs on the background loop.

    async def _connect(self, brokers: str, partition: int | None) -> tuple[LogConsumer, LogConsumer]:
        runs = await self._start(brokers, RUNS, partition)
        try:
            return await self._start(brokers, COMMANDS, self._partition), runs  # decisions are where the packets are
        except BaseException:
            await runs.stop()
            raise

    async def _start(self, brokers: str, topic: Topic, partition: int | None) -> LogConsumer:
        """A consumer of the run's partition of a topic, from its end on, which `ends` has then.

        Where the log deletes what it has not read yet, it goes on where the log begins.
        """
        consumer = LogConsumer(bootstrap_servers=brokers, urgent=True, auto_offset_reset="earliest")
        try:
            await consumer.start()
            (place,) = await consumer.places_of(self._key, topic, partition=partition)
            begin = self.ends[place.topic, place.partition] = (await consumer.end_offsets([place]))[place]
            if topic is RUNS:
                self._runs_end, self._partition = begin, place.partition
                begin = self._log_begins = await self._begin(consumer, place, begin)
            starts = {place: begin}
            if topic is COMMANDS:
                starts |= await self._emergencies(consumer)
            consumer.assign(list(starts))
            for each, offset in starts.items():
                consumer.seek(each, offset)  # at once: an assignment without a position would begin a reset
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    async def _emergencies(self, consumer: LogConsumer) -> dict[TopicPartition, int]:
        """The ends of all that emergencies are written to: one to all runs lies where its writer's do."""
        return await consumer.end_offsets(await consumer.places(EMERGENCY))

    async def _begin(self, consumer: LogConsumer, place: TopicPartition, end: int) -> int:
        """Where to begin to look for claims: where the archive ends that has none, or the log, which `end`s there."""
        self._next = begin = end
        if self._archived is not None:
            self._next = min(end, self._archived.get((place.topic, place.partition), 0))
            begin = max(self._next, (await consumer.beginning_offsets([place]))[place])
        return begin

    async def _disconnect(self) -> None:
        await asyncio.gather(self._commands.stop(), self._runs.stop())

    async def _follow_runs(self) -> None:
        """The run's own topic, behind what the log had deleted of it already: a claim waits for that."""
        if self._log_begins > self._next:
            self._unknown = await self._look_back(self._log_begins)
            self._next = self._log_begins
        self._look_at(self._next)
        await self._follow(self._runs, self._fact)

    async def _follow(self, consumer: LogConsumer, take: Callable[[Record], None]) -> None:
        while True:
            try:
                message = await consumer.getone()
            except KafkaError as error:
                logger.warning("reading the log failed, trying again: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            if message.topic == RUNS.name and message.offset > self._next:
                await self._look_back(message.offset)
            if message.topic == EMERGENCY.name:
                self._emergency(record_of(message))
            elif message.topic == COMMANDS.name or message.key == self._key:
                take(record_of(message))
            if message.topic == RUNS.name:
                self._next = message.offset + 1
                if not self._caught_up.is_set():
                    self._look_at(self._next)

    async def _look_back(self, offset: int) -> str:
        """The log has nothing between what was read and this offset: lost, given to nobody, or deleted since.

        Returns why it is not known who claimed the run there; empty where it is.
        """
        try:
            found = await asyncio.to_thread(lambda: list(self._gone(self._partition, self._next, offset)))
        except (EsperError, OSError) as error:
            logger.warning("who claimed the run meanwhile is not known: %s", error)
            return str(error)
        for record in found:
            self._fact(record)
        return ""

    def _look_at(self, offset: int) -> None:
        """Claims before this offset are known."""
        if offset >= self._runs_end:
            self._caught_up.set()

    def _fact(self, record: Record) -> None:
        """A fact of this run, mostly one of our own: only a claim matters, and only one that is signed."""
        event = verified(record, self._ring, since_ns=self._since_ns)
        if not isinstance(event, Refused) and body_name(event) in CLAIMS and self._claims.seen(event):
            self._answers.give_up()

    def _emergency(self, record: Record) -> None:
        """Somebody's emergency: one that this run is to heed is kept until the trainer asks, before its next step."""
        if _SIGNAL not in record.signed.payload:
            return  # an alert, or telemetry of high priority
        event = verified(record, self._ring, since_ns=self._since_ns)
        if isinstance(event, Refused):
            self._metrics.count("esper_security_signature_fail_total", topic=record.topic, reason=event.reason)
            return
        signal = event.emergency_signal
        if event.run_id not in ("", self.run_id) or signal.level < EMERGENCY_LEVEL_CONSERVATIVE or signal.origin in OWN:
            return
        self._signals.append(Heard(signal.level, signal.reason, event.event_id))
        self._answers.rouse()

    def _arrived(self, record: Record) -> None:
        event = verified(record, self._ring, since_ns=self._since_ns)
        if not isinstance(event, Refused):
            if event.run_id == self.run_id:
                self._answers.arrived(event, record.signed)
            return
        self._metrics.count("esper_security_signature_fail_total", topic=record.topic, reason=event.reason)
        try:
            claimed = envelope.parse(record.signed.payload)
        except ContractViolation:
            claimed = None
        if claimed is not None and claimed.run_id != self.run_id:
            return  # that run's trainer sees it too
        if claimed is not None and body_name(claimed) == "adaptation_command":
            if self._refused_commands.first(record, event.reason):
                self._answers.arrived_unverified(record.signed)
        elif self._refusals.first(record, event.reason):
            self._tell([violation(record, event, producer=self._name, run_id=self.run_id)])

    def _tell(self, events: Iterable[Event]) -> None:
        try:
            for event in events:
                self.writer.publish(event)
        except LogUnavailable as error:  # the training loop hears of it at its next fact
            logger.warning("refused records could not be told of: %s", error)

    async def _summarise(self) -> None:
        """What was refused, every 10 s."""
        while True:
            await asyncio.sleep(SUMMARY_S)
            for refusals in (self._refusals, self._refused_commands):
                self._tell(refusals.summaries(producer=self._name, run_id=self.run_id))
