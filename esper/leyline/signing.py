"""HMAC-SHA256 over the serialised event, carried in record headers with the key's id.

A record is signed as a whole, so any changed bit of an event is found. During a rotation two keys are accepted for new
events. A retired key verifies what arrived on the log before it was retired, and nothing newer: whoever has it can
write any time into an event, so that time alone proves nothing. What arrived when is for who reads the log to say:

- A process that acts on a record goes by the log's own stamp, within what its own clock allows (`arrival_ns`); a stamp
  that the producer made says nothing, and such a record is taken for one that arrived just now.
- History goes by the later of the record's time and its event's (`history_ns`): of a record that the log itself stamped
  that is when it arrived, and of an older one it is all that there is.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, Self, TypeAlias

from esper.errors import InvalidInput

HEADER_SIGNATURE: Final = "esper-signature"
HEADER_KEY_ID: Final = "esper-key"
MIN_KEY_BYTES: Final = 32
_NS_PER_MS: Final = 1_000_000


Pairs: TypeAlias = Sequence[tuple[str, bytes | None]]
"""The headers of a record: names and values in their order."""


class ManyHeaders(Sequence[Pairs]):
    """The headers of many records, flat, since a list and two tuples for each are what the garbage collector walks.

    `words` are name, value, name, value of each record that has two, as signed ones have. Of any other they are four
    times None, and its headers stand in `others`, by its place.
    """

    __slots__ = ("others", "words")

    def __init__(self, headers: Iterable[Pairs] = ()) -> None:
        each = list(headers)
        self.others: dict[int, Pairs] = {}
        if {*map(len, each)} - {2}:
            self.others = {place: pairs for place, pairs in enumerate(each) if len(pairs) != 2}
            each = [((None, None),) * 2 if place in self.others else pairs for place, pairs in enumerate(each)]  # type: ignore[misc]
        self.words: list[Any] = list(chain.from_iterable(chain.from_iterable(each)))

    @classmethod
    def joined(cls, parts: Iterable[Sequence[Pairs]]) -> Self:
        """Those of several, one after the other."""
        whole = cls()
        for part in parts:
            headers = part if isinstance(part, ManyHeaders) else cls(part)
            if headers.others:
                before = len(whole)
                whole.others.update({before + place: pairs for place, pairs in headers.others.items()})
            whole.words += headers.words
        return whole

    def count_all(self) -> int:
        """How many headers that are."""
        return len(self.words) // 2 + sum(len(pairs) - 2 for pairs in self.others.values())

    def __len__(self) -> int:
        return len(self.words) // 4

    def __getitem__(self, place: Any) -> Any:
        at = range(len(self))[place]
        if isinstance(at, range):
            return [self[each] for each in at]
        if at in self.others:
            return self.others[at]
        name, value, other, second = self.words[4 * at : 4 * at + 4]
        return ((name, value), (other, second))


@dataclass(frozen=True, slots=True)
class Signed:
    """The bytes of one event as they lay on the log, with what vouches for them."""

    payload: bytes
    key_id: str | None = None
    signature: bytes | None = None


def key_id(secret: bytes) -> str:
    """The public name of a key: the first 8 hex digits of a hash of it."""
    return hashlib.sha256(b"esper key id" + secret).hexdigest()[:8]


def arrival_ns(stamp_ms: int | None, *, now_ns: int, since_ns: int = 0) -> int:
    """When a record arrived, for a process that acts on it now.

    `stamp_ms` is the log's own time of it, None where only its producer gave one, which proves nothing. The record is
    not from after `now_ns`, nor from before `since_ns`, the time at which this process began to read at the log's end.
    """
    return now_ns if stamp_ms is None else max(since_ns, min(stamp_ms * _NS_PER_MS, now_ns))


def history_ns(recorded_at_ns: int, stamp_ms: int) -> int:
    """When a record of history arrived, at the earliest: not before its event was made, nor before its stamp."""
    return max(recorded_at_ns, stamp_ms * _NS_PER_MS)


class _Mac:
    """HMAC-SHA256 (RFC 2104) with the key's first block hashed beforehand: half the time of `hmac.digest`, 0.7 µs.

    The second block is hashed each time with what follows it: less than OpenSSL takes to copy a hash that has begun.
    """

    __slots__ = ("begun",)

    def __init__(self, secret: bytes) -> None:
        block = (secret if len(secret) <= 64 else hashlib.sha256(secret).digest()).ljust(64, b"\0")
        inner, outer = (bytes(byte ^ pad for byte in block) for pad in (0x36, 0x5C))
        self.begun = (hashlib.sha256(inner), outer)

    def of(self, payload: bytes) -> bytes:
        """The 32 bytes that vouch for `payload`."""
        inner = self.begun[0].copy()
        inner.update(payload)
        return hashlib.sha256(self.begun[1] + inner.digest()).digest()


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of an installation: the first of `secrets` signs, all of them verify, retired ones what came before.

    `retired` maps a secret to the Unix time in nanoseconds at which it was retired. Raises InvalidInput for a secret
    under 32 bytes or an empty ring.
    """

    secrets: tuple[bytes, ...]
    retired: Mapping[bytes, int] = field(default_factory=dict)
    _by_id: dict[str, tuple[_Mac, int | None]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.secrets:
            raise InvalidInput("a key ring needs at least one secret")
        for secret in (*self.secrets, *self.retired):
            if len(secret) < MIN_KEY_BYTES:
                raise InvalidInput(f"a signing secret needs {MIN_KEY_BYTES} bytes; this one has {len(secret)}")
        by_id: dict[str, tuple[_Mac, int | None]] = {key_id(s): (_Mac(s), at) for s, at in self.retired.items()}
        by_id.update({key_id(s): (_Mac(s), None) for s in self.secrets})
        object.__setattr__(self, "_by_id", by_id)

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._by_id)})"

    def sign(self, payload: bytes) -> Signed:
        """`payload` with the signature of the first key."""
        secret = self.secrets[0]
        return Signed(payload, key_id(secret), hmac.digest(secret, payload, "sha256"))

    def verify(self, signed: Signed, arrived_ns: int) -> str | None:
        """None where the signature holds for what arrived then, else `missing_signature` or `invalid_signature`."""
        if not signed.signature or not signed.key_id:
            return "missing_signature"
        mac, retired_at = self._by_id.get(signed.key_id, (None, None))
        if mac is None or (retired_at is not None and arrived_ns >= retired_at):
            return "invalid_signature"
        if not hmac.compare_digest(mac.of(signed.payload), signed.signature):
            return "invalid_signature"
        return None

    def refused(
        self,
        payloads: Iterable[bytes | None],
        headers: ManyHeaders,
        recorded_at_ns: Sequence[int],
        stamps_ms: Sequence[int],
    ) -> Iterator[tuple[int, str]]:
        """The records of history whose signature does not hold, by their place, with what `verify` says.

        For those who have many: every signature is computed, and what is left out is the calls around it.
        """
        begun = {key_id.encode(): mac.begun for key_id, (mac, retired_at) in self._by_id.items() if retired_at is None}
        same, sha256 = hmac.compare_digest, hashlib.sha256
        columns = (headers.words[number::4] for number in range(4))
        for place, (payload, name, key_id, other, signature) in enumerate(zip(payloads, *columns, strict=True)):
            blocks = begun.get(key_id)
            if blocks and payload and signature and name == HEADER_KEY_ID and other == HEADER_SIGNATURE:
                inner = blocks[0].copy()  # `of`, without the call
                inner.update(payload)
                if same(sha256(blocks[1] + inner.digest()).digest(), signature):
                    continue
            found = dict(headers[place])
            signer = found.get(HEADER_KEY_ID)
            named = signer.decode("utf-8", "replace") if signer else None
            signed = Signed(payload or b"", named, found.get(HEADER_SIGNATURE))
            reason = self.verify(signed, history_ns(int(recorded_at_ns[place]), stamps_ms[place]))
            if reason is not None:
                yield place, reason
