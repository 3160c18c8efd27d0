"""What tests and experiments run a trainer on: a log in memory with Tamiyo in process, a standing clock, and builders.

Nothing here is a mock: `MemoryLog` implements `Log` and answers with the same pure function as the decider does. Free
of torch.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

from contracts.leyline.v1.leyline_pb2 import (
    COMMAND_TYPE_SEED,
    AdaptationCommand,
    CommandSeedOperation,
    SeedOperation,
)
from esper.errors import LogUnavailable, Superseded
from esper.leyline import ids
from esper.leyline.envelope import Event, body_name, body_of, new_event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing, Signed
from esper.record.accept import CLAIMS, supersedes
from esper.tamiyo.answer import answer
from esper.tamiyo.serving import Serving
from esper.tolaria.outside import Answer, Clock

KEYS = KeyRing((b"a secret for tests, and only those",))
REAL_CLOCK = Clock(time.monotonic, time.time_ns)


class FakeClock:
    """A clock that moves when told to: `advance(seconds)` moves both readings, `clock` is what to hand on."""

    def __init__(self, wall_ns: int = 1_800_000_000_000_000_000) -> None:
        self.now_s = 0.0
        self.wall_ns = wall_ns
        self.clock = Clock(lambda: self.now_s, lambda: self.wall_ns)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        self.wall_ns += round(seconds * 1e9)


class MemoryLog:
    """A log that keeps its events in a list, in the order they were written, and answers packets itself.

    `miss(n)` makes the next n answers too late: their commands arrive afterwards as any other. `send` delivers a signed
    command. `close` makes the log refuse what comes from then on. `events` lie on it already.
    """

    def __init__(
        self,
        clock: Clock = REAL_CLOCK,
        *,
        keys: KeyRing = KEYS,
        objects: ObjectStore | None = None,
        events: Iterable[Event] = (),
        serving: Serving | None = None,
    ) -> None:
        self.events = list(events)
        self.flushes = 0
        self._clock = clock
        self._keys = keys
        self._objects = objects
        self._serving = serving
        self._packets: dict[bytes, Event] = {}
        self._given: dict[bytes, Answer] = {}
        claims = (event for event in self.events if body_name(event) in CLAIMS)
        self._claimed = {event.run_id: event.incarnation for event in claims}
        self._arrived: list[Signed] = []
        self._to_miss = 0
        self._closed = False

    def publish(self, event: Event) -> None:
        """Append the event."""
        self.events.append(event)
        if body_name(event) == "epoch_completed":
            self._packets = {event.event_id: event}

    def flush(self, timeout_s: float = 30.0) -> None:
        """Everything is there already; raises LogUnavailable where the log was closed."""
        if self._closed:
            raise LogUnavailable(f"the log took nothing for {timeout_s} s")
        self.flushes += 1

    def await_answer(self, packet_id: bytes, timeout_s: float) -> Answer | None:  # noqa: ARG002 (it never waits)
        """Tamiyo's answer to the packet, signed."""
        if packet_id in self._given:
            return self._given.pop(packet_id)
        now_ns, monotonic = self._clock.wall_ns(), self._clock.monotonic
        found = answer(self._packets.pop(packet_id), now_ns=now_ns, monotonic=monotonic, serving=self._serving)
        for content in found.objects:
            if self._objects is not None:
                self._objects.put(content)
        self.events += found.events
        by_name = {body_name(event): self._sign(event) for event in found.events}
        if self._to_miss:
            self._to_miss -= 1
            self._arrived += [by_name["adaptation_command"]] if "adaptation_command" in by_name else []
            return None
        return Answer(by_name["decision_made"], by_name.get("adaptation_command"))

    def take_commands(self) -> list[Signed]:
        """What `send` delivered and what came too late."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def await_command(self, timeout_s: float) -> None:
        """It never waits."""

    def claim(self, event: Event) -> None:
        """Append the claim; raises Superseded where the run was claimed by that incarnation before."""
        if not supersedes(event.incarnation, self._claimed.get(event.run_id, 0)):
            raise Superseded(f"run {event.run_id} was claimed before")
        self._claimed[event.run_id] = event.incarnation
        self.events.append(event)

    def catch_up(self, open_packet: bytes, requests: Iterable[tuple[Event, Signed]], known: Iterable[Signed]) -> None:  # noqa: ARG002 (nothing comes twice)
        """Have ready what arrived before."""
        self._packets = {event.event_id: event for event in self.events if event.event_id == open_packet}
        by_packet = {name: each for each in requests if (name := body_name(each[0])) and each[0].correlation_id}
        if "decision_made" in by_packet:
            commands = by_packet.get("adaptation_command")
            self._given[open_packet] = Answer(by_packet["decision_made"][1], commands[1] if commands else None)
        self._arrived += [signed for event, signed in requests if not event.correlation_id]

    def shed(self) -> int:
        """Nothing is ever shed."""
        return 0

    def miss(self, answers: int) -> None:
        """Let the next so many answers come too late."""
        self._to_miss += answers

    def send(self, command: Signed) -> None:
        """Deliver a command."""
        self._arrived.append(command)

    def close(self) -> None:
        """Refuse everything from now on."""
        self._closed = True

    def bodies(self, name: str) -> list[Any]:
        """The bodies of one kind, in order, such as `seed_transitioned`."""
        return [body_of(event) for event in self.events if body_name(event) == name]

    def _sign(self, event: Event) -> Signed:
        return self._keys.sign(event.SerializeToString())


_NUMBERS: Iterator[int] = itertools.count(1)


def command_event(run_id: str, command: AdaptationCommand, *, clock: Clock = REAL_CLOCK, by: str = "a person") -> Event:
    """The event around a command: id, issuer and time are filled in where the command leaves them out."""
    if not command.command_id:
        command.command_id = ids.text(ids.uuid7(clock.wall_ns(), next(_NUMBERS).to_bytes(10, "big")))
    if not command.HasField("issued_at"):
        command.issued_at.FromNanoseconds(clock.wall_ns())
    command.version = command.version or 1
    command.issued_by = command.issued_by or by
    return new_event(
        command,
        event_id=ids.from_text(command.command_id),
        run_id=run_id,
        producer=by,
        recorded_at_ns=clock.wall_ns(),
    )


def seed_command(
    run_id: str, operation: SeedOperation, seed_id: str, blueprint_id: str = "", *, clock: Clock = REAL_CLOCK
) -> Event:
    """A person's seed command, ready to be signed."""
    payload = CommandSeedOperation(operation=operation, blueprint_id=blueprint_id)
    command = AdaptationCommand(command_type=COMMAND_TYPE_SEED, target_seed_id=seed_id, seed_operation=payload)
    return command_event(run_id, command, clock=clock)


def signed(event: Event, keys: KeyRing = KEYS) -> Signed:
    """The event's bytes with a signature of `keys`."""
    return keys.sign(event.SerializeToString())
