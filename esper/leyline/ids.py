"""Event ids: 16 bytes, UUIDv7 where a chain begins and UUIDv5 where an event follows from another.

Layouts: RFC 9562 sections 5.5 (v5) and 5.7 (v7). An id that is derived from its cause makes a redelivered input give
the same event again instead of a second one.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Final

_NAMESPACE: Final = uuid.UUID("6f8b1f0e-3f4c-5b1e-9a53-4c65796c696e").bytes


def uuid7(now_ns: int, random_bits: bytes) -> bytes:
    """A time-ordered id from a Unix time in nanoseconds and 10 random bytes."""
    value = (now_ns // 1_000_000).to_bytes(6, "big") + random_bits
    return value[:6] + bytes([0x70 | (value[6] & 0x0F), value[7], 0x80 | (value[8] & 0x3F)]) + value[9:16]


def derived_id(cause: bytes, handler: str, ordinal: int = 0) -> bytes:
    """The id of the `ordinal`-th event that `handler` makes of the event `cause`."""
    digest = hashlib.sha1(_NAMESPACE + cause + f"/{handler}/{ordinal}".encode(), usedforsecurity=False).digest()[:16]
    return digest[:6] + bytes([0x50 | (digest[6] & 0x0F), digest[7], 0x80 | (digest[8] & 0x3F)]) + digest[9:16]


def text(event_id: bytes) -> str:
    """The familiar 8-4-4-4-12 form of an id."""
    return str(uuid.UUID(bytes=event_id))


def from_text(value: str) -> bytes:
    """The 16 bytes of an id in text form; raises ValueError where it is none."""
    return uuid.UUID(value).bytes
