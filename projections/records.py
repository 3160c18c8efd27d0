"""Records as they lay on the log: what the archive takes in and what it can give back byte for byte."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from esper.leyline.signing import ManyHeaders, Pairs

Headers: TypeAlias = Pairs
"""Header names and values in their order."""


class Record(Protocol):
    """One record of a topic partition. aiokafka's `ConsumerRecord` is one as it stands."""

    @property
    def topic(self) -> str:
        """The topic's name."""

    @property
    def partition(self) -> int:
        """The partition, from 0."""

    @property
    def offset(self) -> int:
        """The place in the partition."""

    @property
    def timestamp(self) -> int:
        """Unix milliseconds, as the producer or the broker set them."""

    @property
    def key(self) -> bytes | None:
        """The record key."""

    @property
    def value(self) -> bytes | None:
        """The serialised event."""

    @property
    def headers(self) -> Headers:
        """Header names and values in their order."""


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record that was read back from the archive, or made for it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one topic partition in the order of their offsets, column by column.

    What comes from the log in bulk stays in this form: an object for every record would cost more than all its bytes.
    """

    topic: str
    partition: int
    offsets: Sequence[int] = field(default_factory=list)
    timestamps: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    headers: Sequence[Headers] = field(default_factory=list)
    size: int = 0
    """What it takes of memory, some bytes more or less; 0 where nobody counted."""

    def __len__(self) -> int:
        return len(self.offsets)

    def at(self, places: Iterable[int]) -> Batch:
        """The records at some places of this batch."""
        chosen = list(places)
        columns = (self.offsets, self.timestamps, self.keys, self.values, self.headers)
        return Batch(self.topic, self.partition, *([column[i] for i in chosen] for column in columns))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Offsets `[first, next)` of a topic partition whose bytes on the log are damaged, and in words why.

    `file` is the segment of an embedded log that they lie in.
    """

    topic: str
    partition: int
    first: int
    next: int
    why: str
    file: str = ""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        held = f"offset {self.first}" if self.next - self.first == 1 else f"offsets {self.first} to {self.next - 1}"
        return f"{self.topic}/{self.partition} {held}"

    def __str__(self) -> str:
        return f"{self.place}{f' in {self.file}' if self.file else ''} cannot be read and is left out: {self.why}"


def batches_of(records: Iterable[Record]) -> list[Batch]:
    """Single records as batches, one per topic partition."""
    found: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        found.setdefault((record.topic, record.partition), []).append(record)
    return [
        Batch(
            *place,
            [record.offset for record in held],
            [record.timestamp for record in held],
            [record.key for record in held],
            [record.value for record in held],
            ManyHeaders(record.headers for record in held),
        )
        for place, held in found.items()
    ]
