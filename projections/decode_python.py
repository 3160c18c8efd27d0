"""The plain decoder: bodies of one type become columns by walking their descriptors, in Python.

It is what remains if ptars fails on some input or has to go, and the oracle that ptars is tested against. Maps come out
in the order of their keys, whereas ptars keeps the order on the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import pyarrow as pa
from google.protobuf import message_factory

from projections.columns import BODIES, STRUCT, Descriptor, Field, arrow_schema, is_map
from projections.rows import Group, log_columns, struct_json
from projections.twin import ENVELOPE_TWIN, twin_of

_TIMESTAMP: Final = "google.protobuf.Timestamp"


def table(name: str, group: Group) -> pa.Table:
    """The table of body type `name`; raises google.protobuf's DecodeError for a body that is torn."""
    schema = arrow_schema(name)
    envelopes = [record.value for record in group.records]
    body = _columns(twin_of(BODIES[name].full_name), group.bodies)
    for index, own in enumerate(BODIES[name].fields):
        if own.message_type is not None and own.message_type.full_name == STRUCT:
            body[index] = [struct_json(item) for item in body[index]]
    columns = _columns(ENVELOPE_TWIN, envelopes) + body
    types = schema.types[len(schema.types) - len(columns) :]
    arrays = [pa.array(values, type_) for values, type_ in zip(columns, types, strict=True)]
    return pa.table([*log_columns(name, group.records, group.regular), *arrays], schema=schema)


def _columns(descriptor: Descriptor, encoded: list[Any]) -> list[list[Any]]:
    parse = message_factory.GetMessageClass(descriptor).FromString
    messages = [parse(item) for item in encoded]
    return [[read(message) for message in messages] for read in _readers(descriptor)]


@cache
def _readers(descriptor: Descriptor) -> tuple[Callable[[Any], Any], ...]:
    return tuple(_reader(field) for field in descriptor.fields)


def _reader(field: Field) -> Callable[[Any], Any]:
    """A function from a message to the value of one of its fields, as pyarrow takes it."""
    name = field.name
    if is_map(field):
        single = _single(field.message_type.fields_by_name["value"])
        return lambda message: [(key, single(value)) for key, value in sorted(getattr(message, name).items())]
    single = _single(field)
    if field.is_repeated:
        return lambda message: [single(item) for item in getattr(message, name)]
    if field.has_presence:
        return lambda message: single(getattr(message, name)) if message.HasField(name) else None
    return lambda message: getattr(message, name)


def _single(field: Field) -> Callable[[Any], Any]:
    if field.message_type is None:
        return lambda value: value
    if field.message_type.full_name == _TIMESTAMP:
        return lambda value: value.seconds * 1_000_000 + value.nanos // 1_000
    readers = {child.name: _reader(child) for child in field.message_type.fields}
    return lambda message: {name: read(message) for name, read in readers.items()}
