"""Who may change a run: an adaptation command is signed, fresh and new, or it is rejected with the reason why.

The checks run in this order, and the first that fails gives the reason: signature, contents, version, id, identical
redelivery, timestamp, nonce. Only an accepted command takes its place in the nonce ledger, so nobody can use up a nonce
with a stale or unsigned copy. An identical redelivery (the log delivers at least once) is dropped before its age is
looked at: its very bytes were judged when they first came.

Source: R-SEC-3 to R-SEC-9, R-KAS-29 to R-KAS-31.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

from contracts.leyline.v1 import event_pb2, leyline_pb2
from esper.errors import ContractViolation, InvalidInput
from esper.leyline import envelope, ids
from esper.leyline.signing import KeyRing, Signed

Outcome = Literal[
    "accepted",
    "duplicate",
    "missing_signature",
    "invalid_signature",
    "malformed",
    "unsupported_version",
    "missing_command_id",
    "missing_timestamp",
    "issued_in_future",
    "stale_command",
    "nonce_replayed",
]

COMMAND_VERSION: Final = 1
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one command.

    `event` and `command` are there for an accepted command only. `command_id` (16 bytes) is there as soon as the
    signature holds and the id is readable, so that a rejection can name what it rejected. `detail` is one line.
    """

    outcome: Outcome
    detail: str = ""
    command_id: bytes = b""
    event: event_pb2.Event | None = None
    command: leyline_pb2.AdaptationCommand | None = None

    @property
    def accepted(self) -> bool:
        """Apply it."""
        return self.outcome == "accepted"

    @property
    def rejected(self) -> bool:
        """Record the rejection: each is one CRITICAL event (R-SEC-9). A duplicate is neither applied nor recorded."""
        return self.outcome not in ("accepted", "duplicate")


class CommandVerifier:
    """Verifies commands and remembers the accepted ones for `nonce_ttl_s`, at most `capacity` of them.

    It knows no clock: every call is given the Unix time in nanoseconds. When the ledger is full the entry that would
    expire first makes room, and `evictions` counts that. `outcomes` counts every verdict by its word.

    Raises InvalidInput where a nonce would be forgotten while its command could still be fresh.
    """

    def __init__(
        self,
        key_ring: KeyRing,
        *,
        freshness_s: float = 60.0,
        future_skew_s: float = 5.0,
        nonce_ttl_s: float = 300.0,
        capacity: int = 10_000,
    ) -> None:
        if nonce_ttl_s < freshness_s + future_skew_s:
            raise InvalidInput(
                f"a nonce kept for {nonce_ttl_s} s is forgotten while its command is still fresh; "
                f"keep it for {freshness_s + future_skew_s} s at least"
            )
        if capacity < 1:
            raise InvalidInput(f"a nonce ledger needs room for one entry at least, not {capacity}")
        self._key_ring = key_ring
        self._freshness_ns = round(freshness_s * _NS)
        self._future_skew_ns = round(future_skew_s * _NS)
        self._nonce_ttl_ns = round(nonce_ttl_s * _NS)
        self._capacity = capacity
        # Insertion order is expiry order, because every entry lives equally long.
        self._ledger: dict[bytes, tuple[bytes, int]] = {}
        self.outcomes: Counter[Outcome] = Counter()
        self.evictions = 0

    def verify(self, signed: Signed, *, now_ns: int) -> Verdict:
        """The verdict on one record of `esper.commands`; never raises, whatever the bytes are."""
        verdict = self._judge(signed, now_ns)
        self.outcomes[verdict.outcome] += 1
        return verdict

    def remember(self, signed: Signed, *, now_ns: int) -> None:
        """Take a command that was accepted before this verifier was made: its nonce is used up."""
        event = _decode(signed.payload)
        if event is not None:
            nonce = ids.from_text(event.adaptation_command.command_id)
            self._ledger[nonce] = (hashlib.sha256(signed.payload).digest(), now_ns + self._nonce_ttl_ns)

    @property
    def remembered(self) -> int:
        """How many nonces the ledger holds."""
        return len(self._ledger)

    def expire(self, *, now_ns: int) -> None:
        """Forget the nonces whose time is over; call it now and then, because without traffic nothing else does."""
        while self._ledger:
            nonce = next(iter(self._ledger))
            if self._ledger[nonce][1] > now_ns:
                break
            del self._ledger[nonce]

    def _judge(self, signed: Signed, now_ns: int) -> Verdict:
        self.expire(now_ns=now_ns)
        # A command is always new, so a retired key (good for what was recorded before it retired) opens nothing.
        unsigned = self._key_ring.verify(signed, now_ns)
        if unsigned is not None:
            outcome: Outcome = "missing_signature" if unsigned == "missing_signature" else "invalid_signature"
            return Verdict(outcome, f"key {signed.key_id!r} does not vouch for these {len(signed.payload)} bytes")
        event = _decode(signed.payload)
        if event is None:
            return Verdict("malformed", f"{len(signed.payload)} signed bytes hold no adaptation command")
        command = event.adaptation_command
        if command.version != COMMAND_VERSION:
            return Verdict("unsupported_version", f"the command has version {command.version}, not {COMMAND_VERSION}")
        if not command.command_id:
            return Verdict("missing_command_id", "the command has no id")
        try:
            command_id = ids.from_text(command.command_id)
        except ValueError:
            return Verdict("malformed", f"command id {command.command_id!r} is no UUID")
        return self._judge_age_and_nonce(signed.payload, event, command_id, now_ns)

    def _judge_age_and_nonce(self, payload: bytes, event: event_pb2.Event, command_id: bytes, now_ns: int) -> Verdict:
        command = event.adaptation_command
        digest = hashlib.sha256(payload).digest()
        known = self._ledger.get(command_id)
        if known is not None and known[0] == digest:
            return Verdict("duplicate", "delivered before, byte for byte", command_id)
        if not command.HasField("issued_at"):
            return Verdict("missing_timestamp", "the command does not say when it was issued", command_id)
        age_ns = now_ns - (command.issued_at.seconds * _NS + command.issued_at.nanos)
        if age_ns < -self._future_skew_ns:
            return Verdict("issued_in_future", f"issued {-age_ns / _NS:.3f} s from now", command_id)
        if age_ns > self._freshness_ns:
            return Verdict("stale_command", f"issued {age_ns / _NS:.3f} s ago", command_id)
        if known is not None:
            return Verdict("nonce_replayed", "this id was used by another command", command_id)
        if len(self._ledger) >= self._capacity:
            del self._ledger[next(iter(self._ledger))]
            self.evictions += 1
        self._ledger[command_id] = (digest, now_ns + self._nonce_ttl_ns)
        return Verdict("accepted", "", command_id, event, command)


def _decode(payload: bytes) -> event_pb2.Event | None:
    try:
        event = envelope.parse(payload)
    except ContractViolation:
        return None
    return event if envelope.body_name(event) == "adaptation_command" else None
