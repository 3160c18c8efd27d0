"""A record as it lay on the log: what the archive takes in and what it can give back byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Record(Protocol):
    """One record of a topic partition. aiokafka's `ConsumerRecord` is one as it stands, so nothing is converted."""

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
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
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
