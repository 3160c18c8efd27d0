"""Pairs the records of `esper.commands` with the packets that a trainer published, for the thread that waits."""

from __future__ import annotations

import hashlib
import threading

from esper.leyline import envelope
from esper.leyline.envelope import Event
from esper.leyline.signing import Signed
from esper.tolaria.outside import Answer


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
        self._given_up = False

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
        with self._changed:
            loose, self._loose = self._loose, []
            return loose

    def arrived(self, event: Event, signed: Signed) -> None:
        """A decision or command of this run whose signature holds."""
        digest = hashlib.sha256(signed.payload).digest()
        with self._changed:
            if digest in self._seen:
                return
            self._seen.add(digest)
            match envelope.body_name(event):
                case "decision_made":
                    self._decision(event, signed)
                case "adaptation_command":
                    self._command(event, signed)

    def arrived_unverified(self, signed: Signed) -> None:
        """A command whose signature does not hold: no answer, but the trainer records that it rejected it."""
        with self._changed:
            self._loose.append(signed)

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

    def _finish(self, packet_id: bytes, answer: Answer) -> None:
        # The first answer counts; a second one would be another decision on the same packet.
        self._complete.setdefault(packet_id, answer)
        self._changed.notify_all()
