"""Archives in a temporary folder: a made-up history of a few runs, whole or in parts, merged or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from contracts.leyline.v1 import event_pb2
from projections import compaction
from projections.archive_writer import Archive
from projections.generated import history, records
from projections.records import StoredRecord
from projections.testing import LogOfRecords
from streams.feed import EventFeed
from tests.unit.feed.wanted import PACKETS


def _fill(archive: Path, made: Sequence[StoredRecord], flush: int = 400) -> Path:
    """Archive `made`, so many records a flush."""
    with Archive(archive) as owned:
        for start in range(0, len(made), flush):
            owned.append(made[start : start + flush])
    return archive


def _merge(archive: Path) -> int:
    """Merge whatever can be merged; how many files are left."""
    with Archive(archive) as owned:
        assert compaction.merge_all(owned, 2, time.time) == set()
        return len(owned.manifest.files)


def _events_of(made: Sequence[StoredRecord], body: str) -> list[event_pb2.Event]:
    """The events of one type among records, in their order."""
    parsed = [event_pb2.Event.FromString(record.value or b"") for record in made]
    return [event for event in parsed if event.WhichOneof("body") == body]


@pytest.fixture(scope="session")
def made() -> list[StoredRecord]:
    """Six runs, about 7,000 records on four partitions of seven topics."""
    return list(records(history(7_000)))


@pytest.fixture(scope="session")
def few(made) -> list[StoredRecord]:
    """Only their state packets and field reports, as if nothing else had been logged: few files."""
    events = [event_pb2.Event.FromString(record.value or b"") for record in made]
    return LogOfRecords().place(e for e in events if e.WhichOneof("body") in {"epoch_completed", "field_report"})


@pytest.fixture(scope="session")
def data_dir(made, tmp_path_factory) -> Path:
    """A data folder whose archive holds them."""
    folder = tmp_path_factory.mktemp("feed")
    _fill(folder / "archive", made)
    return folder


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Many turns where there would be one, so that their order shows."""
    monkeypatch.setattr("streams.feed.cursor.BLOCK", 97)


@pytest.fixture(scope="session")
def ids() -> Callable[[EventFeed], list[bytes]]:
    """The ids of the events of a feed whose schemas have `event_id`, in the order in which they come."""

    def read(feed: EventFeed) -> list[bytes]:
        return [bytes(row) for batch in feed for row in batch["event_id"].numpy()]

    return read


@pytest.fixture(scope="session")
def fill():
    """Archives records in a folder, some a flush."""
    return _fill


@pytest.fixture(scope="session")
def merge():
    """Merges whatever can be merged."""
    return _merge


@pytest.fixture(scope="session")
def events_of():
    """The events of one type among records."""
    return _events_of


@pytest.fixture
def feed(data_dir) -> Callable[..., EventFeed]:
    """A feed of the shared archive in small batches."""

    def make(*schemas, **options):
        return EventFeed(data_dir, *(schemas or (PACKETS,)), **{"batch_size": 32, **options})

    return make
