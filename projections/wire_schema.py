"""Twins of the contracts that split an event without decoding its body, and that Arrow can hold.

`Parts` is `Event` with every body declared as `bytes`: same tags, same wire format, so parsing it is cheap and yields
the body still encoded, ready to be decoded together with others of its type. In `POOL` the messages are as in the
contracts but for one thing: a `google.protobuf.Struct` is `bytes`, because it contains itself and a column cannot.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, message_factory, struct_pb2, timestamp_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from contracts.leyline.v1 import event_pb2, leyline_pb2
from projections.columns import STRUCT

_PACKAGE: Final = "esper.leyline.v1"


def _file(module: Any) -> descriptor_pb2.FileDescriptorProto:
    proto = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(proto)
    return proto


def _as_bytes(field: descriptor_pb2.FieldDescriptorProto) -> None:
    field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
    field.ClearField("type_name")


def _build() -> DescriptorPool:
    pool = DescriptorPool()
    leyline, event = _file(leyline_pb2), _file(event_pb2)
    for message in (*leyline.message_type, *event.message_type):
        for field in message.field:
            if field.type_name == f".{STRUCT}":
                _as_bytes(field)
    original = next(message for message in event.message_type if message.name == "Event")
    parts, envelope = event.message_type.add(), event.message_type.add()
    parts.CopyFrom(original)
    parts.name = "Parts"
    for field in parts.field:
        if field.HasField("oneof_index"):
            _as_bytes(field)
    envelope.name = "Envelope"
    envelope.field.extend(field for field in original.field if not field.HasField("oneof_index"))
    for proto in (_file(timestamp_pb2), _file(struct_pb2), leyline, event):
        pool.Add(proto)
    return pool


POOL: Final = _build()
ENVELOPE_TWIN: Final = POOL.FindMessageTypeByName(f"{_PACKAGE}.Envelope")
Parts: Final[Any] = message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{_PACKAGE}.Parts"))


def twin_of(full_name: str) -> Any:
    """The descriptor in `POOL` of the message that the contracts call `full_name`."""
    return POOL.FindMessageTypeByName(full_name)
