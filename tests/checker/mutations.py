"""Known faults, put back into the processes of a house, to show that the checker finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any


def apply(name: str) -> None:
    """Put a fault back into this process."""
    MUTATIONS[name]()


def _put(owner: Any, name: str, value: Any) -> None:
    """Replace what is there; a mutation of what is not there any more would show nothing."""
    assert hasattr(owner, name), f"{owner} has no {name} to replace"
    setattr(owner, name, value)


def producer_ids() -> None:
    """Case 1: they begin again where `meta.db` says, whatever the log has seen."""
    from streams.broker.registry import Registry

    _put(Registry, "draw_ids_above", lambda _registry, _highest, *, topics: None)  # noqa: ARG005 - its name counts


def manifest() -> None:
    """Case 2: a start deletes what the manifest does not list."""


def retired_key() -> None:
    """Case 9: a record is as old as it says."""


def second_start() -> None:
    """Case 10: a start claims nothing."""


def bad_batch() -> None:
    """Case 12: a batch whose checksum does not hold ends its reader, which comes to the same one again."""
    from aiokafka.errors import CorruptRecordException
    from streams.fetching import Fetched

    def fail(_fetched: Fetched, stretches: Iterable[Any]) -> Iterator[Any]:
        for each in stretches:
            raise CorruptRecordException(str(each))
        yield from ()

    _put(Fetched, "_left_out", fail)


MUTATIONS: dict[str, Callable[[], None]] = {
    "producer ids": producer_ids,
    "manifest": manifest,
    "retired key": retired_key,
    "second start": second_start,
    "bad batch": bad_batch,
}
