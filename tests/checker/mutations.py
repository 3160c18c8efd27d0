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
    from projections.archive_writer import Archive

    def delete(archive: Archive) -> int:
        listed = {entry.name for entry in archive.manifest.files} | set(archive.manifest.retired)
        for path in (archive.folder / "files").iterdir():
            if path.name not in listed:
                path.unlink()
        return 0

    _put(Archive, "_set_aside", delete)


def retired_key() -> None:
    """Case 9: a record is as old as it says."""
    from esper.leyline import signing
    from streams import records

    verified = records._verified

    def by_its_own_time(signed: Any, ring: Any, _arrived_ns: Any) -> Any:
        return verified(signed, ring, lambda event: event.recorded_at_ns)

    _put(records, "_verified", by_its_own_time)
    _put(signing, "history_ns", lambda recorded_at_ns, _stamp_ms: recorded_at_ns)


def second_start() -> None:
    """Case 10: a start claims nothing."""
    from streams.trainer_log import KafkaLog
    from tests.checker import clients

    claim = KafkaLog.claim

    def published(log: KafkaLog, event: Any, timeout_s: float) -> None:
        if event.HasField("run_started"):
            log.publish(event)
            log.flush(timeout_s)
        else:
            claim(log, event, timeout_s)

    _put(KafkaLog, "claim", published)
    _put(clients, "check_new", lambda _archive, _run_id: None)


def bad_batch() -> None:
    """Case 12: a batch whose checksum does not hold ends its reader, which comes to the same one again."""
    from aiokafka.errors import CorruptRecordException

    from streams.fetching import Fetched

    def fail(_fetched: Fetched, stretches: Iterable[Any]) -> Iterator[Any]:
        for each in stretches:
            raise CorruptRecordException(str(each))
        yield from ()

    _put(Fetched, "_left_out", fail)


def projection() -> None:
    """What the log has lost comes from the archive without what signs it, and is refused."""
    from projections.store import Store

    _put(Store, "verifies", False)


def kept_object() -> None:
    """An object that is there already is taken for whole."""
    from esper.leyline.objects import ObjectStore

    _put(ObjectStore, "_holds", lambda _store, _digest, _name, _content: True)


MUTATIONS: dict[str, Callable[[], None]] = {
    "producer ids": producer_ids,
    "manifest": manifest,
    "retired key": retired_key,
    "second start": second_start,
    "bad batch": bad_batch,
    "projection": projection,
    "object": kept_object,
}
