"""What is said when a record is refused or given up: a SecurityViolation, or a DeadLettered with its cause.

Their ids are derived from the record's place on the log, so that a redelivery, or a second consumer, says it once.
"""

from __future__ import annotations

import time
from typing import Final

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.topics import DEADLETTER
from esper.leyline import ids
from esper.leyline.envelope import MAX_EVENT_BYTES, Event, new_event
from streams.records import Record, Refused

CAUSE_CHARACTERS: Final = 2_000
RECORD_BYTES: Final = MAX_EVENT_BYTES - 8 * 1024
"""A dead letter must itself fit into an event; the rest of a longer record can be read at the place it names."""


def violation(record: Record, refused: Refused, *, producer: str, run_id: str = "") -> Event:
    """The event that says that a record's signature does not hold."""
    return new_event(
        event_pb2.SecurityViolation(
            reason=refused.reason, topic=record.topic, detail=f"{record.place}: {refused.detail}"
        ),
        event_id=ids.derived_id(record.place.encode(), "oona.security"),
        run_id=run_id,
        producer=producer,
        recorded_at_ns=time.time_ns(),
        priority=leyline_pb2.MESSAGE_PRIORITY_CRITICAL,
    )


def dead_letter(record: Record, *, handler: str, cause: str, attempts: int, producer: str, run_id: str = "") -> Event:
    """The event that gives a record up for one handler."""
    assert record.topic != DEADLETTER.name
    return new_event(
        event_pb2.DeadLettered(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            attempts=attempts,
            handler=handler,
            cause=cause[:CAUSE_CHARACTERS],
            record=record.signed.payload[:RECORD_BYTES],
        ),
        event_id=ids.derived_id(record.place.encode(), f"oona.deadletter.{handler}"),
        run_id=run_id,
        producer=producer,
        recorded_at_ns=time.time_ns(),
        priority=leyline_pb2.MESSAGE_PRIORITY_HIGH,
    )


def halted(record: Record, event: Event, *, handler: str, cause: str, attempts: int) -> Event:
    """The event by which a fold says that it stopped at a fact of a run, which is never dead-lettered (ruling 3)."""
    packet = leyline_pb2.TelemetryPacket(
        packet_id=event.event_id.hex(),
        source_subsystem=handler,
        level=leyline_pb2.TELEMETRY_LEVEL_ERROR,
        events=[
            leyline_pb2.TelemetryEvent(
                event_id="fold_halted",
                description=f"{handler} stopped following the run at {record.place} after {attempts} attempts: "
                f"{cause[:CAUSE_CHARACTERS]}",
                level=leyline_pb2.TELEMETRY_LEVEL_ERROR,
            )
        ],
    )
    return new_event(
        packet,
        event_id=ids.derived_id(event.event_id, f"oona.halted.{handler}"),
        run_id=event.run_id,
        producer=handler,
        recorded_at_ns=time.time_ns(),
        causation_id=event.event_id,
        priority=leyline_pb2.MESSAGE_PRIORITY_HIGH,
    )
