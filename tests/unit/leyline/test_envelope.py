"""The envelope at the door: what is no event of this version is refused with the reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.leyline.v1.event_pb2 import Event, Measurement, SeedTransitioned
from esper.errors import ContractViolation
from esper.leyline import envelope

IDS = {"event_id": bytes(16), "run_id": "run", "producer": "trainer", "recorded_at_ns": 7}


def test_an_event_is_read_back_as_it_was_made():
    event = envelope.new_event(SeedTransitioned(seed_id="s1"), **IDS, sequence=3, incarnation=1)
    again = envelope.parse(event.SerializeToString())

    assert again == event
    assert envelope.body_name(again) == "seed_transitioned"
    assert envelope.body_of(again).seed_id == "s1"
    assert envelope.topic_of(again).name == "esper.runs"
    assert again.priority == leyline_pb2.MESSAGE_PRIORITY_NORMAL


@pytest.mark.parametrize("body", [field.name for field in Event.DESCRIPTOR.oneofs_by_name["body"].fields])
def test_every_event_has_the_tag_of_its_body(body):
    """Also one with an empty body; and where it is the only event with it, no other tag is found in it."""
    event = Event(event_id=bytes(16))
    getattr(event, body).SetInParent()
    payload = event.SerializeToString()

    assert envelope.tag_of(body) in payload
    others = {field.name for field in Event.DESCRIPTOR.oneofs_by_name["body"].fields} - {body}
    assert len([name for name in others if envelope.tag_of(name) in payload]) <= 1  # by chance


def test_a_body_without_fields_is_a_body_all_the_same():
    assert envelope.body_name(envelope.new_event(SeedTransitioned(), **IDS)) == "seed_transitioned"


def test_what_is_no_body_is_refused():
    with pytest.raises(ContractViolation, match="Measurement is not a body"):
        envelope.new_event(Measurement(), **IDS)


@pytest.mark.requirement("R-LEY-6")
@pytest.mark.parametrize("version", [0, 2])
def test_another_schema_version_is_refused(version):
    """R-LEY-6."""
    event = envelope.new_event(SeedTransitioned(), **IDS)
    event.schema_version = version

    with pytest.raises(ContractViolation, match=f"schema version {version}"):
        envelope.parse(event.SerializeToString())


MESSAGES = {
    "epoch_completed": lambda v: event_pb2.EpochCompleted(state=leyline_pb2.SystemStatePacket(version=v)),
    "emergency_signal": lambda v: leyline_pb2.EmergencySignal(version=v),
    "field_report": lambda v: leyline_pb2.FieldReport(version=v),
    "policy_update": lambda v: leyline_pb2.PolicyUpdate(version=v),
    "bsds_issued": lambda v: leyline_pb2.BSDSIssued(bsds=leyline_pb2.BSDS(version=v)),
    "benchmark_report": lambda v: leyline_pb2.BenchmarkReport(benchmark=leyline_pb2.BlueprintBenchmark(version=v)),
}


@pytest.mark.requirement("R-LEY-6")
@pytest.mark.parametrize("body", MESSAGES)
@pytest.mark.parametrize("version", [None, 0, 2])
def test_another_version_of_a_message_is_refused(body, version):
    """R-LEY-6: 0 is what a message without a version says on the wire."""
    event = envelope.new_event(MESSAGES[body](version), **IDS)

    with pytest.raises(ContractViolation, match=f"of version {version or 0}; this Esper reads 1"):
        envelope.parse(event.SerializeToString())
    assert envelope.parse(envelope.new_event(MESSAGES[body](1), **IDS).SerializeToString())


def test_a_body_without_the_message_has_no_version_to_refuse():
    assert envelope.parse(envelope.new_event(event_pb2.EpochCompleted(), **IDS).SerializeToString())


@pytest.mark.requirement("R-LEY-6")
def test_every_message_with_a_version_is_checked():
    """Adaptation commands are checked by the verifier, which has their rejection recorded."""
    found = {}
    for field in Event.DESCRIPTOR.oneofs_by_name["body"].fields:
        for holder in [field, *field.message_type.fields]:
            if holder.message_type is not None and "version" in holder.message_type.fields_by_name:
                found[field.name] = "" if holder is field else holder.name

    assert found == {**envelope.VERSIONED, "adaptation_command": ""}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Event(), "event_id has 0 bytes"),
        (Event(event_id=b"short"), "event_id has 5 bytes"),
        (Event(event_id=bytes(16), schema_version=1), "no body"),
    ],
)
def test_an_event_without_its_parts_is_refused(event, reason):
    with pytest.raises(ContractViolation, match=reason):
        envelope.parse(event.SerializeToString())


def test_a_body_of_a_later_version_is_refused():
    """A body with a tag that this version does not know parses as no body at all."""
    later = Event(event_id=bytes(16), schema_version=1).SerializeToString() + b"\xa2\x3f\x00"  # field 1012, empty

    with pytest.raises(ContractViolation, match="no body that schema version 1 knows"):
        envelope.parse(later)


@given(st.binary(max_size=100))
def test_garbage_is_a_contract_violation_and_nothing_else(payload):
    with pytest.raises(ContractViolation):
        envelope.parse(payload)


@pytest.mark.requirement("R-TAM-57")
@pytest.mark.parametrize(
    ("body", "priority"),
    [
        (leyline_pb2.TelemetryPacket(level=leyline_pb2.TELEMETRY_LEVEL_INFO), "NORMAL"),
        (leyline_pb2.TelemetryPacket(level=leyline_pb2.TELEMETRY_LEVEL_WARNING), "HIGH"),
        (leyline_pb2.TelemetryPacket(level=leyline_pb2.TELEMETRY_LEVEL_ERROR), "HIGH"),
        (leyline_pb2.TelemetryPacket(level=leyline_pb2.TELEMETRY_LEVEL_CRITICAL), "CRITICAL"),
        (event_pb2.SecurityViolation(), "CRITICAL"),
        (SeedTransitioned(), "NORMAL"),
    ],
)
def test_the_priority_follows_from_what_is_told(body, priority):
    """R-KAS-38 for every subsystem: whoever makes an event need not know the rule."""
    event = envelope.new_event(body, **IDS)

    assert leyline_pb2.MessagePriority.Name(event.priority) == f"MESSAGE_PRIORITY_{priority}"
    is_urgent = isinstance(body, leyline_pb2.TelemetryPacket) and priority != "NORMAL"
    assert (envelope.topic_of(event).name == "esper.emergency") == (is_urgent or "Security" in type(body).__name__)
