"""Who uses a house: trainers, an author of commands, a stranger and a reader, each a process with a journal.

A client takes one order a line from stdin (`{"do": NAME, ...}`) and obeys them one after the other. Before an event
goes out the journal has it; after the log acknowledged it the journal has that. The journal is one file that all
processes append to, a line a write, so it outlives every kill and its order is that of time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from aiokafka.errors import KafkaError

from contracts.leyline.v1 import event_pb2 as pb
from contracts.leyline.v1 import leyline_pb2
from contracts.topics import PARTITIONS
from esper.errors import EsperError, LogUnavailable, Superseded
from esper.leyline import ids
from esper.leyline.envelope import Event, body_name, new_event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing
from esper.leyline.verifier import CommandVerifier
from esper.testing import command_event
from esper.tolaria.outside import Clock
from esper.weatherlight.beginning import archived_claims, check_new, read_recorded
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.records import outgoing, partition_of
from streams.settings import Settings
from streams.trainer_log import KafkaLog

JOURNAL = 4
"""The inherited file descriptor of the journal."""
FLUSH_S = 15.0
CLOCK = Clock(time.monotonic, lambda: time.time_ns())  # noqa: PLW0108 - a clock may be set later


class Journal:
    """What one process did, appended to the journal of all."""

    def __init__(self, by: str, descriptor: int = JOURNAL) -> None:
        self.by = by
        self._descriptor = descriptor

    def note(self, did: str, **what: Any) -> None:
        """Add a line, in one write."""
        os.write(self._descriptor, json.dumps({"by": self.by, "did": did, **what}).encode() + b"\n")

    def sends(self, event: Event, did: str = "sends", **more: Any) -> str:
        """An event goes out now; its id."""
        record = outgoing(event)
        self.note(
            did,
            id=event.event_id.hex(),
            body=body_name(event),
            topic=record.topic,
            partition=partition_of(record.key, PARTITIONS),
            run=event.run_id,
            incarnation=event.incarnation,
            sequence=event.sequence,
            goes_on_from=event.run_resumed.accepted_sequence,
            refers_to=event.checkpoint_saved.ref,
            bytes=hashlib.sha256(record.payload).hexdigest()[:16],
            **more,
        )
        return event.event_id.hex()


class Client:
    """What all have: the log's address, keys, a journal."""

    def __init__(self, journal: Journal, brokers: str, data: Path) -> None:
        self.journal = journal
        self.brokers = brokers
        self.data = data
        self.ring = load_key_ring(Settings.load(data=data), brokers)

    def close(self) -> None:
        """Let go of the log."""


class Trainer(Client):
    """One process that trains a run: begins it or goes on with it, writes facts, obeys commands."""

    def __init__(self, journal: Journal, brokers: str, data: Path) -> None:
        super().__init__(journal, brokers, data)
        self.log: KafkaLog | None = None
        self.sequence = 0
        self.incarnation = 1
        self.run = ""
        self.waiting: list[str] = []
        self.verifier = CommandVerifier(self.ring)

    def start(self, run: str) -> None:
        """Begin a run of a given id, as `esper.weatherlight.trainer` does."""
        self._connect(run, check_new(self.data / "archive", run))
        self._claim(pb.RunStarted(task="spirals", policy="none", epochs=10, steps_per_epoch=10))

    def resume(self, run: str, back: int) -> None:
        """Go on with a run, `back` facts before its last, as `esper.tolaria.resume.resume_run` does."""
        self._connect(run)
        recorded = read_recorded(self.data / "archive", run, self.log.ends)
        upto = max(1, recorded.last_accepted() - back)
        self.sequence, self.incarnation = upto, recorded.state.incarnation + 1
        self._catch_up(recorded, upto)
        self._claim(pb.RunResumed(accepted_sequence=upto, reason="resumed"))

    def facts(self, count: int) -> None:
        """Write facts, and wait until the log has them."""
        for number in range(count):
            self._publish(self._fact(pb.LearningRateChanged(group="host", old_lr=1.0, new_lr=1 / (2 + number))))
        self._flush()

    def checkpoint(self, content: int) -> None:
        """Keep an object, and write the fact that names it; some contents are kept again."""
        stored = b"state %d" % content * 40
        self.journal.note("keeps", ref=f"sha256:{hashlib.sha256(stored).hexdigest()}", run=self.run)
        ref = ObjectStore(self.data / "objects").put(stored)
        self.journal.note("kept", ref=ref, run=self.run)
        self._publish(self._fact(pb.CheckpointSaved(ref=ref)))
        self._flush()

    def telemetry(self, count: int) -> None:
        """Write telemetry, for which nobody waits."""
        for _ in range(count):
            event = self._event(pb.StepSampled(loss=1.0))
            self.journal.sends(event)
            self.log.publish(event)

    def emergency(self) -> None:
        """Write an emergency, and wait until the log has it."""
        urgent = leyline_pb2.MESSAGE_PRIORITY_CRITICAL
        self._publish(self._event(leyline_pb2.EmergencySignal(version=1, reason="test"), priority=urgent))
        self._flush()

    def obey(self) -> None:
        """Take the commands that came, and apply those that are verified, as `LiveWorld.commands` does."""
        for signed in self.log.take_commands():
            verdict = self.verifier.verify(signed, now_ns=time.time_ns())
            if verdict.event is None or verdict.event.run_id != self.run:
                continue
            self.journal.note("obeys", id=verdict.event.event_id.hex(), run=self.run)
            self._publish(self._fact(pb.CommandApplied(command_id=verdict.command_id)))
        self._flush()

    def finish(self) -> None:
        """End the run."""
        self._publish(self._fact(pb.RunFinished(status="completed")))
        self._flush()

    def close(self) -> None:
        """Let go of the log."""
        if self.log is not None:
            self.log.close()

    def _connect(self, run: str, archived: Mapping[tuple[str, int], int] | None = None) -> None:
        self.run = run
        gone = archived_claims(self.data / "archive", run)
        self.log = KafkaLog(self.brokers, self.ring, run_id=run, metrics=Metrics(), archived=archived, gone=gone)

    def _claim(self, body: Any) -> None:
        claim = self._fact(body)
        self.waiting.append(self.journal.sends(claim))
        self.log.claim(claim, FLUSH_S)
        self._acknowledged()
        self.journal.note("owns", run=self.run, incarnation=self.incarnation, id=claim.event_id.hex())

    def _catch_up(self, recorded: Any, upto: int) -> None:
        """Of the commands, those that were applied are remembered and the others come again."""
        done = {fact.command_applied.command_id for fact in recorded.facts[:upto] if fact.HasField("command_applied")}
        known = [signed for command, signed in recorded.commands.items() if command in done]
        for signed in known:
            self.verifier.remember(signed, now_ns=time.time_ns())
        open_ones = [
            (Event.FromString(each.payload), each) for key, each in recorded.commands.items() if key not in done
        ]
        self.log.catch_up(b"", open_ones, known)

    def _event(self, body: Any, **fields: Any) -> Event:
        now_ns = time.time_ns()
        event_id = ids.uuid7(now_ns, secrets.token_bytes(10))
        return new_event(body, event_id=event_id, run_id=self.run, producer="trainer", recorded_at_ns=now_ns, **fields)

    def _fact(self, body: Any) -> Event:
        self.sequence += 1
        return self._event(body, sequence=self.sequence, incarnation=self.incarnation, timeline=1)

    def _publish(self, event: Event) -> None:
        self.waiting.append(self.journal.sends(event))
        self.log.publish(event)

    def _flush(self) -> None:
        self.log.flush(FLUSH_S)
        self._acknowledged()

    def _acknowledged(self) -> None:
        self.journal.note("acknowledged", ids=self.waiting)
        self.waiting = []


class Author(Client):
    """Writes commands to runs, and blueprints, as the decider and a person do."""

    def __init__(self, journal: Journal, brokers: str, data: Path) -> None:
        super().__init__(journal, brokers, data)
        self.runner = asyncio.Runner()
        self.publisher = self._publisher(self.ring)

    def _publisher(self, ring: KeyRing) -> Publisher:
        return Publisher(self.brokers, ring, Metrics(), request_timeout_s=FLUSH_S)

    def command(self, run: str) -> None:
        """A person's command to a run."""
        self._send([command_event(run, _command(), clock=CLOCK)])

    def blueprints(self, count: int) -> None:
        """Requests to compile."""
        bodies = [pb.CompileRequested(job_id=secrets.token_hex(4), blueprint_id="BP009") for _ in range(count)]
        self._send([_plain(body, "", "author") for body in bodies])

    def _send(self, events: Sequence[Event]) -> None:
        sent = [self.journal.sends(event) for event in events]
        self.runner.run(self.publisher.publish(events))
        self.journal.note("acknowledged", ids=sent)

    def close(self) -> None:
        """Let go of the log."""
        self.runner.run(self.publisher.stop())
        self.runner.close()


class Stranger(Author):
    """Writes what a good key does not vouch for. `with_key` is `unknown`, or `retired` with a time before it was."""

    def forge_claim(self, run: str, incarnation: int, sequence: int, with_key: str) -> None:
        """Take a run over."""
        claim = _plain(pb.RunResumed(accepted_sequence=sequence - 1), run, "trainer")
        claim.incarnation, claim.sequence = incarnation, sequence
        self._forge(claim, with_key)

    def forge_command(self, run: str, with_key: str) -> None:
        """Order a run to do something."""
        self._forge(command_event(run, _command(), clock=CLOCK), with_key)

    def _forge(self, event: Event, with_key: str) -> None:
        secret = secrets.token_bytes(32)
        if with_key == "retired":
            ((secret, retired_at),) = self.ring.retired.items()
            event.recorded_at_ns = retired_at - 3_600_000_000_000
        publisher = self._publisher(KeyRing((secret,)))
        self.journal.sends(event, did="forges", how=with_key)
        self.runner.run(publisher.publish([event]))
        self.runner.run(publisher.stop())


class Reader(Client):
    """Reads a run as people and services do, and notes what it was told."""

    def tail(self, run: str) -> None:
        """By `streams.reader.tail`, to the end of now."""
        from contracts.topics import RUNS
        from streams.reader import tail

        async def read() -> list[str]:
            events = tail(self.brokers, self.ring, run, topics=[RUNS], follow=False)
            return [event.event_id.hex() async for event in events]

        self.journal.note("reads", how="tail", run=run, ids=asyncio.run(asyncio.wait_for(read(), FLUSH_S)))

    def sql(self, run: str) -> None:
        """By the view of the facts that count."""
        from projections import open_history

        with open_history(self.data / "archive") as history:
            query = "SELECT event_id FROM accepted_facts WHERE run_id = ? ORDER BY log_offset"
            found = [row[0].hex() for row in history.execute(query, [run]).fetchall()]
        self.journal.note("reads", how="sql", run=run, ids=found)

    def feed(self, run: str) -> None:
        """As a training job does: from the archive, and on to the log's present end."""
        from streams.feed import EventFeed, Field, Schema  # late: it needs torch, which nothing else here does

        schema = Schema("learning_rate_changed", [Field("event_id", "id", width=16)])
        batches = EventFeed(self.data, schema, end="now", runs=[run], brokers=self.brokers)
        found = [bytes(row.tolist()).hex() for batch in batches for row in batch["id"]]
        self.journal.note("reads", how="feed", run=run, ids=found)


ROLES = {"trainer": Trainer, "author": Author, "stranger": Stranger, "reader": Reader}


def run(arguments: Sequence[str], messages: TextIO) -> None:
    """Obey orders until stdin ends or `{"do": "end"}` comes. What goes wrong with the log is noted, and no failure."""
    role, name, brokers, data = arguments
    journal = Journal(name)
    client = ROLES[role](journal, brokers, Path(data))
    messages.write('{"ready": true}\n')
    try:
        for order in _orders():
            said = _obeyed(client, journal, order)
            messages.write(json.dumps({"done": said}) + "\n")
        journal.note("ends", run=getattr(client, "run", ""), incarnation=getattr(client, "incarnation", 0))
    except Superseded as error:
        journal.note("superseded", run=client.run, why=str(error))
    except (EsperError, KafkaError, OSError, TimeoutError) as error:
        journal.note("gives up", why=f"{type(error).__name__}: {error}")
    finally:
        client.close()


def _obeyed(client: Client, journal: Journal, order: dict[str, Any]) -> str:
    """Do what is ordered; a trainer that fails ends, as a real one does, and the others go on."""
    do = order.pop("do")
    try:
        getattr(client, do)(**order)
    except (LogUnavailable, KafkaError, OSError, TimeoutError, EsperError) as error:
        if isinstance(client, Trainer):
            raise
        journal.note("fails", do=do, why=f"{type(error).__name__}: {error}")
    return do


def _orders() -> Iterable[dict[str, Any]]:
    with os.fdopen(os.dup(0)) as lines:
        for line in lines:
            order = json.loads(line)
            if order["do"] == "end":
                return
            yield order


def _command() -> leyline_pb2.AdaptationCommand:
    return leyline_pb2.AdaptationCommand(
        command_id=ids.text(ids.uuid7(time.time_ns(), secrets.token_bytes(10))),
        command_type=leyline_pb2.COMMAND_TYPE_SEED,
        target_seed_id="s1",
    )


def _plain(body: Any, run: str, producer: str) -> Event:
    now_ns = time.time_ns()
    event_id = ids.uuid7(now_ns, secrets.token_bytes(10))
    return new_event(body, event_id=event_id, run_id=run, producer=producer, recorded_at_ns=now_ns)


if __name__ == "__main__":
    sys.exit("clients are made by a house")
