"""Between an event and a record of the log: its key, its bytes, its signature headers, and the way back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from esper.errors import ContractViolation
from esper.leyline import envelope
from esper.leyline.envelope import Event
from esper.leyline.signing import HEADER_KEY_ID, HEADER_SIGNATURE, KeyRing, Signed, arrival_ns, history_ns

Headers: TypeAlias = Iterable[tuple[str, bytes]] | Mapping[str, bytes] | None

LOG_APPEND_TIME: Final = 1
"""The type of a record's timestamp that the log itself gave, in the protocol and in aiokafka."""

_NESTED: Final = {"blueprint_registered": "descriptor", "bsds_issued": "bsds", "benchmark_report": "benchmark"}
"""Bodies whose blueprint id lies one message deeper. (`descriptor` is spelt so in the contract.)"""

_KEY_FIELDS: Final = {"blueprint": "blueprint_id", "policy": "policy_id", "source": "topic"}


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it lay on the log, whichever client read it.

    `timestamp_ms`, Unix milliseconds, is the log's own time of it where `stamped`, else the one that its producer gave.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    signed: Signed
    stamped: bool = False

    @property
    def place(self) -> str:
        """Where it is, for people: `topic/partition@offset`."""
        return f"{self.topic}/{self.partition}@{self.offset}"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event ready to be sent."""

    topic: str
    key: bytes
    payload: bytes


def outgoing(event: Event) -> Outgoing:
    """`event` as it goes to its topic.

    The bytes are deterministic (maps sorted), so a redelivered input makes the very same record again. Raises
    ContractViolation for an event without a body and for one above 256 KiB.
    """
    topic = envelope.topic_of(event)
    payload: bytes = event.SerializeToString(deterministic=True)
    if len(payload) > envelope.MAX_EVENT_BYTES:
        raise ContractViolation(
            f"{envelope.body_name(event)} {event.event_id.hex()} has {len(payload)} bytes and an event may have "
            f"{envelope.MAX_EVENT_BYTES}: put its large part into the object store"
        )
    return Outgoing(topic.name, _key(event, topic.keyed_by), payload)


def _key(event: Event, keyed_by: str) -> bytes:
    """The record key. What belongs to no run, such as an alert about a process, is keyed by who says it."""
    if keyed_by == "run":
        key = event.run_id
    else:
        name = envelope.body_name(event)
        body = envelope.body_of(event)
        holder = getattr(body, _NESTED[name]) if name in _NESTED else body
        key = str(getattr(holder, _KEY_FIELDS[keyed_by], ""))
    return (key or event.producer).encode()


def headers_of(signed: Signed) -> list[tuple[str, bytes]]:
    """The record headers that carry a signature."""
    assert signed.key_id is not None
    assert signed.signature is not None
    return [(HEADER_KEY_ID, signed.key_id.encode()), (HEADER_SIGNATURE, signed.signature)]


def signed_of(value: bytes | None, headers: Headers) -> Signed:
    """The record's bytes with what its headers say vouches for them; nothing is verified yet."""
    found = dict(headers.items() if isinstance(headers, Mapping) else headers or ())
    key_id = found.get(HEADER_KEY_ID)
    return Signed(
        value or b"",
        key_id.decode("utf-8", errors="replace") if key_id is not None else None,
        found.get(HEADER_SIGNATURE),
    )


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a record is not taken: `missing_signature` or `invalid_signature`, or `malformed` with a good signature."""

    reason: str
    detail: str


def verified(record: Record, ring: KeyRing, *, since_ns: int = 0) -> Event | Refused:
    """The event in a record that this process acts on: its key was not retired when it arrived.

    `since_ns` is when the process began to read at the log's end, where it did: nothing that it reads is older.
    """
    stamp_ms = record.timestamp_ms if record.stamped else None
    at_ns = arrival_ns(stamp_ms, now_ns=time.time_ns(), since_ns=since_ns)
    return _verified(record.signed, ring, lambda _event: at_ns)


def verified_history(record: Record, ring: KeyRing) -> Event | Refused:
    """The event in a record that is read as history, and on which nothing is done: see `esper.leyline.signing`."""
    return _verified(record.signed, ring, lambda event: history_ns(event.recorded_at_ns, record.timestamp_ms))


def _verified(signed: Signed, ring: KeyRing, arrived_ns: Callable[[Event], int]) -> Event | Refused:
    try:
        event = envelope.parse(signed.payload)
    except ContractViolation as error:
        # Without a readable time the newest rules apply: a retired key vouches for nothing here.
        reason = ring.verify(signed, arrived_ns=_FAR_FUTURE_NS)
        return Refused(reason or "malformed", str(error))
    reason = ring.verify(signed, arrived_ns(event))
    if reason is not None:
        return Refused(reason, f"key {signed.key_id!r} does not vouch for these {len(signed.payload)} bytes")
    return event


_FAR_FUTURE_NS: Final = 2**63


def settled(key: bytes, partitions: int, partition: int | None) -> int:
    """Where a key lies: on the partition that is known of it, as far as the log has that, else on its hash's."""
    return partition if partition is not None and partition < partitions else partition_of(key, partitions)


@lru_cache(maxsize=4096)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key in a topic of so many: what aiokafka's, Java's and librdkafka's partitioners agree on.

    Remembered, because aiokafka's `murmur2` is plain Python and costs 15 µs a record.
    """
    # Late, so that reading a record needs no Kafka client.
    from aiokafka.partitioner import murmur2  # noqa: PLC0415

    return int((murmur2(key) & 0x7FFFFFFF) % partitions)
