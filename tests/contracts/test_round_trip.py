"""Whatever a message holds, encoding and decoding gives it back."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.leyline.v1 import event_pb2, leyline_pb2

MESSAGES = {
    descriptor.name: message_factory.GetMessageClass(descriptor)
    for file in (leyline_pb2, event_pb2)
    for descriptor in file.DESCRIPTOR.message_types_by_name.values()
}
WELL_KNOWN_DEPTH = 2  # google.protobuf.Struct nests without end

SCALARS = {
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32, allow_nan=False),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
    # Open enums: a number that this version has no name for must survive as well.
    FieldDescriptor.CPPTYPE_ENUM: st.integers(0, 40),
}


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=16)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return st.text(max_size=8)
    return SCALARS[field.cpp_type]


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    kind = field.message_type
    if kind is None:
        return st.lists(scalars(field), max_size=3) if field.is_repeated else scalars(field)
    if kind.GetOptions().map_entry:
        keys, entry = scalars(kind.fields_by_name["key"]), kind.fields_by_name["value"]
        return st.dictionaries(keys, values(entry, depth + 1), max_size=3)
    one = messages(kind, depth + 1)
    return st.lists(one, max_size=2) if field.is_repeated else one


def messages(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Any]:
    """Any message of this kind; of the fields of a oneof the last one given stays."""
    make = message_factory.GetMessageClass(descriptor)
    nested = descriptor.full_name.startswith("google.protobuf.") and depth > WELL_KNOWN_DEPTH
    fields = [] if nested else descriptor.fields
    optional = {field.name: st.deferred(lambda field=field: values(field, depth)) for field in fields}
    return st.fixed_dictionaries({}, optional=optional).map(lambda given_values: make(**given_values))


@pytest.mark.requirement("R-LEY-12")
@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_any_message_survives_the_round_trip(name):
    kind = MESSAGES[name]

    @settings(max_examples=15, deadline=None, database=None)
    @given(messages(kind.DESCRIPTOR))
    def round_trip(message):
        payload = message.SerializeToString(deterministic=True)
        again = kind.FromString(payload)

        assert again == message
        assert again.SerializeToString(deterministic=True) == payload

    round_trip()


@pytest.mark.requirement("R-LEY-12")
@given(epoch=st.integers(0, 10_000), accuracy=st.floats(0, 1))
def test_a_state_packet_keeps_its_numbers_to_a_millionth(epoch, accuracy):
    """R-LEY-12."""
    packet = leyline_pb2.SystemStatePacket(current_epoch=epoch, validation_accuracy=accuracy)
    again = leyline_pb2.SystemStatePacket.FromString(packet.SerializeToString())

    assert again.current_epoch == epoch
    assert abs(again.validation_accuracy - accuracy) < 1e-6
