"""The envelope of every event: making one of a body, its priority and topic, and reading one back.

An event of an older schema becomes one of today's when it is read (`parse`), one step a version; what lies on a log is
never rewritten. A schema version rises only where an old reader could not read what a new writer publishes
(docs/contracts.md).

`unknown_values` are enum values that this contract does not know, as a newer writer may send them. Nissa takes such a
value for the enum's 0, unknown, counts it and tells of it (R-LEY-20). What must not be guessed at is refused where it
is read: a command, a fact's stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.topics import BY_BODY, EMERGENCY, Topic
from esper.errors import ContractViolation

Event = event_pb2.Event


SCHEMA_VERSION: Final = 1


OLDEST_VERSION: Final = 1


"""What was written once can be read for ever: from here on, older versions are upcast."""


MESSAGE_VERSION: Final = 1


"""What the messages that have a `version` of their own must say (R-LEY-6)."""


VERSIONED: Final[Mapping[str, str]] = {
    "epoch_completed": "state",
    "emergency_signal": "",
    "field_report": "",
    "policy_update": "",
    "bsds_issued": "bsds",
    "benchmark_report": "benchmark",
}


"""The bodies with such a message, and the field that holds it, empty where the body is the message. Adaptation commands
are not among them: the verifier refuses those of another version, so that their rejection is recorded."""


_LENGTH_DELIMITED: Final = 2


"""How protobuf writes a message inside another."""


MAX_EVENT_BYTES: Final = 256 * 1024


"""Larger events are refused before they are published: large bytes live in the object store."""


LATEST_NS: Final = 2**63 - 2
"""The last time that a reader can hold, in the year 2262: SQL has no timestamp for a later one, and a view that met one
would fail for all events."""


Upcaster: TypeAlias = Callable[[Any], None]


"""Changes an event, in place, from the version that it is registered under to the next."""


UPCASTERS: Final[Mapping[tuple[str, int], Upcaster]] = {}


"""By the body's name and the version that it comes from. A body that a version left alone has none there."""


_PRIORITY_OF_LEVEL: Final = {
    leyline_pb2.TELEMETRY_LEVEL_CRITICAL: leyline_pb2.MESSAGE_PRIORITY_CRITICAL,
    leyline_pb2.TELEMETRY_LEVEL_ERROR: leyline_pb2.MESSAGE_PRIORITY_HIGH,
    leyline_pb2.TELEMETRY_LEVEL_WARNING: leyline_pb2.MESSAGE_PRIORITY_HIGH,
}


_BODY_FIELD: Final[dict[str, str]] = {
    field.message_type.full_name: field.name
    for field in Event.DESCRIPTOR.oneofs_by_name["body"].fields
    if field.message_type is not None
}


def new_event(
    body: Any,
    *,
    event_id: bytes,
    run_id: str,
    producer: str,
    recorded_at_ns: int,
    causation_id: bytes = b"",
    correlation_id: bytes = b"",
    sequence: int = 0,
    incarnation: int = 0,
    timeline: int = 0,
    global_step: int = 0,
    epoch: int = 0,
    priority: leyline_pb2.MessagePriority | None = None,
) -> Event:
    """An event around `body`, any message that is one of the bodies of `Event`; its priority is `priority_of(body)`.

    Raises ContractViolation where `body` is not one of them.
    """
    event = Event(
        event_id=event_id,
        run_id=run_id,
        producer=producer,
        sequence=sequence,
        incarnation=incarnation,
        timeline=timeline,
        global_step=global_step,
        epoch=epoch,
        recorded_at_ns=recorded_at_ns,
        causation_id=causation_id,
        correlation_id=correlation_id,
        schema_version=SCHEMA_VERSION,
        priority=priority_of(body) if priority is None else priority,
    )
    field = _BODY_FIELD.get(body.DESCRIPTOR.full_name)
    if field is None:
        raise ContractViolation(f"{body.DESCRIPTOR.full_name} is not a body of Event")
    getattr(event, field).CopyFrom(body)
    return event


def priority_of(body: Any) -> leyline_pb2.MessagePriority:
    """The priority of an event around `body`: security violations are CRITICAL, telemetry goes by its level.

    So is a breaker that opens (R-TAM-38).

    CRITICAL, ERROR or WARNING, and INFO telemetry are CRITICAL, HIGH and NORMAL (R-KAS-38); the rest is NORMAL.
    """
    opens = isinstance(body, event_pb2.BreakerChanged) and body.to_state == leyline_pb2.CIRCUIT_BREAKER_STATE_OPEN
    if opens or isinstance(body, event_pb2.SecurityViolation):
        return leyline_pb2.MESSAGE_PRIORITY_CRITICAL
    if isinstance(body, leyline_pb2.TelemetryPacket):
        return _PRIORITY_OF_LEVEL.get(body.level, leyline_pb2.MESSAGE_PRIORITY_NORMAL)
    return leyline_pb2.MESSAGE_PRIORITY_NORMAL


def body_name(event: Event) -> str:
    """The name of the body that is set, such as `seed_transitioned`; raises ContractViolation where none is."""
    name: str | None = event.WhichOneof("body")
    if name is None:
        raise ContractViolation("the event has no body")
    return name


def body_of(event: Event) -> Any:
    """The body itself."""
    return getattr(event, body_name(event))


@cache
def tag_of(body: str) -> bytes:
    """The bytes that stand before a body of this name in every event that has one.

    An event without them has no such body, and need not be read for its sake. Where they stand by chance it may have
    another one.
    """
    tag, written = event_pb2.Event.DESCRIPTOR.fields_by_name[body].number << 3 | _LENGTH_DELIMITED, bytearray()
    while tag > 0x7F:
        written.append(tag & 0x7F | 0x80)
        tag >>= 7
    return bytes([*written, tag])


def topic_of(event: Event) -> Topic:
    """The topic of an event: that of its body, but the emergency topic for telemetry of HIGH or CRITICAL priority."""
    return topic_for(body_name(event), event.priority)


def topic_for(body: str, priority: int) -> Topic:
    """The same by a body's name and the event's priority."""
    if body == "telemetry_packet" and priority >= leyline_pb2.MESSAGE_PRIORITY_HIGH:
        return EMERGENCY
    return BY_BODY[body]


def parse(payload: bytes) -> Event:
    """The event in `payload`, as today's schema has it: one of an older version is upcast.

    Raises ContractViolation for bytes that are no event, an event without id or body (an empty payload parses as a
    valid message with all defaults), and a version of the schema or of a message in it that this code does not know: a
    higher one, 0, or none at all.
    """
    try:
        event = Event.FromString(payload)
    except Exception as error:  # noqa: BLE001 - DecodeError lives in different places in protobuf's implementations
        raise ContractViolation(f"not an event: {error}") from None
    if len(event.event_id) != 16:
        raise ContractViolation(f"event_id has {len(event.event_id)} bytes instead of 16")
    if event.recorded_at_ns > LATEST_NS:
        raise ContractViolation(f"recorded_at_ns is {event.recorded_at_ns}, which is after the year 2262")
    body = event.WhichOneof("body")
    if body is None:
        raise ContractViolation(
            f"event {event.event_id.hex()} has no body that schema version {SCHEMA_VERSION} knows "
            f"(it says version {event.schema_version})"
        )
    if OLDEST_VERSION <= event.schema_version < SCHEMA_VERSION:
        upcast(event, body, SCHEMA_VERSION)
    if event.schema_version != SCHEMA_VERSION:
        raise ContractViolation(
            f"event {event.event_id.hex()} has schema version {event.schema_version}; this Esper reads {SCHEMA_VERSION}"
        )
    if body in VERSIONED:
        _check_message_version(event, body)
    return event


def _check_message_version(event: Event, body: str) -> None:
    field = VERSIONED[body]
    message = getattr(event, body)
    if field:
        if not message.HasField(field):
            return
        message = getattr(message, field)
    if message.version != MESSAGE_VERSION:
        raise ContractViolation(
            f"event {event.event_id.hex()} holds a {message.DESCRIPTOR.name} of version {message.version}; "
            f"this Esper reads {MESSAGE_VERSION}"
        )


def upcast(event: Any, body: str, to_version: int) -> None:
    """Bring `event`, whose body is called `body`, up to `to_version`, in place."""
    while event.schema_version < to_version:
        step = UPCASTERS.get((body, event.schema_version))
        if step is not None:
            step(event)
        event.schema_version += 1


def unknown_values(message: Message) -> list[tuple[str, int]]:
    """The enum's name and the number of every value in `message`, at any depth, that the enum does not have."""
    found: list[tuple[str, int]] = []
    for field in _fields_to_look_at(message.DESCRIPTOR):
        value = getattr(message, field.name)
        values = value if field.is_repeated else [value]
        if field.enum_type is not None:
            known = field.enum_type.values_by_number
            found += [(field.enum_type.name, number) for number in values if number not in known]
        elif field.is_repeated or message.HasField(field.name):
            for each in values:
                found += unknown_values(each)
    return found


@cache
def _fields_to_look_at(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    """The fields of a message that are enums or hold some; maps hold none in these contracts."""
    return tuple(field for field in descriptor.fields if _holds_enums(field, ()))


def _holds_enums(field: FieldDescriptor, above: tuple[Descriptor, ...]) -> bool:
    if field.enum_type is not None:
        return True
    inner = field.message_type
    if inner is None or inner in above or inner.GetOptions().map_entry:
        return False
    return any(_holds_enums(each, (*above, inner)) for each in inner.fields)
