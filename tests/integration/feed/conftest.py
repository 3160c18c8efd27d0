"""A data folder with a broker of its own, records at known places of its log, and an archive of some of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from contracts.leyline.v1 import event_pb2
from esper.leyline.signing import KeyRing
from projections.archive_writer import Archive
from projections.generated import history
from projections.records import StoredRecord
from projections.testing import LogOfRecords
from streams.broker.launch import BrokerProcess, start_broker
from streams.feed import EventFeed, Field, Schema
from streams.records import headers_of
from streams.topics import ensure_topics

KEY = "6f" * 32
RING = KeyRing((bytes.fromhex(KEY),))
ID = Field("event_id", width=16)
PACKETS = Schema("epoch_completed", [ID, "log_partition", "log_offset", "epoch"])
REPORTS = Schema("field_report", [ID, "log_partition", "log_offset"])


class Desk:
    """What a test does to the log and the archive, and what its feeds read."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.brokers: list[BrokerProcess] = []
        self.log = LogOfRecords()
        self.start_log()
        asyncio.run(ensure_topics(self.broker.address))

    @property
    def broker(self) -> BrokerProcess:
        return self.brokers[-1]

    def start_log(self) -> None:
        """The log, on any free port."""
        self.brokers.append(start_broker(self.data_dir, anonymous=True))

    def place(self, events: Sequence[event_pb2.Event]) -> list[StoredRecord]:
        """The events as records, behind those before."""
        return self.log.place(events)

    def publish(self, records: Sequence[StoredRecord], ring: KeyRing | None = RING) -> None:
        """Put records onto the log, at the places that they have."""
        asyncio.run(_publish(self.broker.address, records, ring))

    def archive(self, records: Sequence[StoredRecord]) -> None:
        """Put records into the archive."""
        with Archive(self.data_dir / "archive") as owned:
            owned.append(records)

    def feed(self, *schemas: Schema, **options) -> EventFeed:
        """A feed of the folder in small batches."""
        return EventFeed(self.data_dir, *(schemas or (PACKETS,)), **{"end": "now", "batch_size": 16, **options})

    def ids(self, feed: EventFeed) -> list[bytes]:
        """The ids of all its events."""
        return [bytes(row) for batch in feed for row in batch["event_id"].numpy()]


async def _publish(address: str, records: Sequence[StoredRecord], ring: KeyRing | None) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=address, linger_ms=5)
    await producer.start()
    try:
        sent = [
            await producer.send(
                record.topic,
                record.value,
                key=record.key,
                partition=record.partition,
                timestamp_ms=record.timestamp,
                headers=headers_of(ring.sign(record.value or b"")) if ring is not None else [],
            )
            for record in records
        ]
        placed = [(await each).offset for each in sent]
    finally:
        await producer.stop()
    assert placed == [record.offset for record in records]


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Iterator[Desk]:
    monkeypatch.setenv("ESPER_KEY", KEY)
    monkeypatch.delenv("ESPER_BROKERS", raising=False)
    made = Desk(tmp_path / "data")
    yield made
    for broker in made.brokers:
        if broker.process.poll() is None:
            broker.stop()


@pytest.fixture(scope="session")
def events() -> list[event_pb2.Event]:
    """State packets and field reports of six runs, in their order: 300 and 150."""
    wanted = {"epoch_completed", "field_report"}
    return [event for event in history(7_000) if event.WhichOneof("body") in wanted]


@pytest.fixture(scope="session")
def packets(events) -> list[event_pb2.Event]:
    """The state packets among them."""
    return [event for event in events if event.WhichOneof("body") == "epoch_completed"]
