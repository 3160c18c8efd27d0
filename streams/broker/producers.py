"""Idempotent producers of one partition: who wrote last, so that a retried batch is answered and not stored again.

The rules are Kafka's (KIP-98, KIP-360): the last five batches of a producer are known by their sequences; a sequence
must follow the one before; a producer that the partition does not know may start at any sequence.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from kio.schema.errors import ErrorCode

from streams.broker.batch import NO_PRODUCER, Batch
from streams.broker.protocol import Refused

REMEMBERED: Final = 5
"""Clients keep at most five requests in flight, so an older retry cannot come."""
EXPIRY_MS: Final = 24 * 60 * 60 * 1000
"""Kafka's default: a producer silent for a day is forgotten."""
MAX_PRODUCERS: Final = 10_000
"""Of one partition; beyond it the longest silent is forgotten first."""
FOREIGN_IDS: Final = 1 << 61
"""No broker gives ids from here on: a client that writes under one has made it up."""


class _Stored(NamedTuple):
    first_sequence: int
    last_sequence: int
    base_offset: int


@dataclass(slots=True)
class _Producer:
    epoch: int
    seen_ms: int
    batches: deque[_Stored] = field(default_factory=lambda: deque(maxlen=REMEMBERED))


class Producers:
    """The idempotence state of one partition, rebuilt from a snapshot and the batches after it.

    `highest` is the greatest id that was ever seen, of those that a broker gives.
    """

    def __init__(self) -> None:
        self._by_id: dict[int, _Producer] = {}
        self.highest = NO_PRODUCER

    def __len__(self) -> int:
        return len(self._by_id)

    def duplicate_of(self, batch: Batch) -> int | None:
        """The base offset that this very batch already has, or None when it is the producer's next.

        Raises:
            Refused: neither; storing it would lose or double records.
        """
        known = self._by_id.get(batch.producer_id)
        if batch.producer_id == NO_PRODUCER or known is None:
            return None
        if batch.producer_epoch < known.epoch:
            why = f"producer {batch.producer_id} has epoch {known.epoch}, the batch {batch.producer_epoch}"
            raise Refused(ErrorCode.invalid_producer_epoch, why)
        if batch.producer_epoch > known.epoch:
            if batch.base_sequence != 0:
                raise Refused(ErrorCode.out_of_order_sequence_number, "a new producer epoch must start at sequence 0")
            return None
        for stored in known.batches:
            if (stored.first_sequence, stored.last_sequence) == (batch.base_sequence, batch.last_sequence):
                return stored.base_offset
        return self._check_follows(known.batches[-1].last_sequence, batch)

    @staticmethod
    def _check_follows(last: int, batch: Batch) -> None:
        gap = (batch.base_sequence - last - 1) & 0x7FFFFFFF
        if gap == 0:
            return
        why = f"producer {batch.producer_id}: sequence {batch.base_sequence} after {last}"
        before = gap > 0x3FFFFFFF  # sequences wrap, so the nearer half of the circle lies behind
        code = ErrorCode.duplicate_sequence_number if before else ErrorCode.out_of_order_sequence_number
        raise Refused(code, why)

    def record(self, batch: Batch, base_offset: int, now_ms: int) -> None:
        """Remembers a batch that was stored."""
        if batch.producer_id == NO_PRODUCER:
            return
        if self.highest < batch.producer_id < FOREIGN_IDS:
            self.highest = batch.producer_id
        known = self._by_id.pop(batch.producer_id, None)
        if known is None or known.epoch != batch.producer_epoch:
            known = _Producer(batch.producer_epoch, now_ms)
        known.seen_ms = now_ms
        known.batches.append(_Stored(batch.base_sequence, batch.last_sequence, base_offset))
        self._by_id[batch.producer_id] = known  # taken out and put back: the order is that of the last write
        if len(self._by_id) > MAX_PRODUCERS:
            del self._by_id[next(iter(self._by_id))]

    def expire(self, now_ms: int) -> None:
        """Forgets who has been silent for a day."""
        for producer_id in list(self._silent(now_ms - EXPIRY_MS)):
            del self._by_id[producer_id]

    def _silent(self, since_ms: int) -> Iterator[int]:
        for producer_id, known in self._by_id.items():
            if known.seen_ms >= since_ms:
                return
            yield producer_id

    def snapshot(self) -> bytes:
        """The state as JSON, for the sidecar of a closed segment."""
        known = [[i, p.epoch, p.seen_ms, list(p.batches)] for i, p in self._by_id.items()]
        return json.dumps({"highest": self.highest, "producers": known}).encode()

    def restore(self, snapshot: bytes) -> None:
        """Become what `snapshot` was taken of; `highest` stays what was ever seen.

        Raises:
            ValueError: it is no snapshot; nothing was changed.
        """
        try:
            found = json.loads(snapshot)
            found = found if isinstance(found, dict) else {"highest": NO_PRODUCER, "producers": found}  # the older form
            restored = {int(i): _restored(int(e), int(ms), batches) for i, e, ms, batches in found["producers"]}
            highest = int(found["highest"])
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"no producers' state: {error}") from error
        self._by_id = restored
        self.highest = max(self.highest, *(each for each in (highest, *restored) if each < FOREIGN_IDS), NO_PRODUCER)


def _restored(epoch: int, seen_ms: int, batches: list[list[int]]) -> _Producer:
    known = _Producer(epoch, seen_ms)
    known.batches.extend(_Stored(*map(int, stored)) for stored in batches)
    if not known.batches:
        raise ValueError("a producer without batches")
    return known
