"""The plain decoder: records become columns in Python, their places on the log and, by their descriptors, their bodies.

It is what remains if ptars fails on some input or has to go, and the oracle that ptars is tested against. Maps come out
in the order of their keys, whereas ptars keeps the order on the wire.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import accumulate, chain
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf import json_format, message_factory, struct_pb2

from esper.leyline.signing import ManyHeaders
from projections.columns import BODIES, INVALID, STRUCT, Descriptor, Field, arrow_field, arrow_schema, is_map
from projections.records import Batch
from projections.wire_schema import Parts, twin_of

Item = TypeVar("Item")
MOST_IN_COLUMN: Final = 2**31 - 1
"""Bytes that a column of Arrow's holds in one piece."""


def log_columns(batches: Sequence[Batch], raw: pa.Array) -> list[pa.Array]:
    """The columns `log_topic` to `log_raw` of all records of `batches`, in their order; `raw` are their values."""
    counts = [len(batch) for batch in batches]
    topics = pa.array([batch.topic for batch in batches], pa.string())
    of_batch = np.repeat(np.arange(len(batches)), counts)
    return [
        topics.take(pa.array(of_batch)),
        pa.array(np.repeat([batch.partition for batch in batches], counts).astype(np.int32)),
        pa.array(np.concatenate([np.empty(0, np.int64), *(_numbers(batch.offsets) for batch in batches)])),
        pa.array(_flat(batch.timestamps for batch in batches), pa.int64()),
        pa.array(_flat(batch.keys for batch in batches), pa.binary()),
        _header_column(ManyHeaders.joined(batch.headers for batch in batches)),
        raw,
    ]


def _flat(columns: Iterable[Iterable[Item]]) -> list[Item]:
    return list(chain.from_iterable(columns))


def _numbers(offsets: Sequence[int]) -> npt.NDArray[np.int64]:
    if isinstance(offsets, range):
        return np.arange(offsets.start, offsets.stop, dtype=np.int64)
    return np.array(offsets, np.int64)


def _header_column(headers: ManyHeaders) -> pa.Array:
    words, ends = headers.words, np.arange(0, 2 * len(headers) + 1, 2, dtype=np.int32)
    if headers.others:
        words = _flat(chain.from_iterable(headers))
        ends = np.fromiter(accumulate(map(len, headers), initial=0), np.int32, len(headers) + 1)
    type_ = arrow_schema(INVALID).field("log_headers").type
    structs = pa.StructArray.from_arrays(
        [_names(words[0::2]), pa.array(words[1::2], pa.binary())], fields=list(type_.value_type)
    )
    return pa.ListArray.from_arrays(pa.array(ends), structs, type=type_)


def binary(values: Sequence[bytes | None]) -> pa.Array:
    """Long bytes as a column, in a third of the time that Arrow takes, which grows the column as it goes."""
    if None in values:
        return pa.array(values, pa.binary())
    ends = np.fromiter(accumulate(map(len, values), initial=0), np.int64, len(values) + 1)  # type: ignore[arg-type]
    if ends[-1] > MOST_IN_COLUMN:
        return pa.array(values, pa.binary())
    content = pa.py_buffer(b"".join(values))  # type: ignore[arg-type]
    return pa.Array.from_buffers(pa.binary(), len(values), [None, pa.py_buffer(ends.astype(np.int32)), content])


def _names(names: list[str]) -> pa.Array:
    """Headers' names; those of our own records are the same two over and over."""
    own = names[:2]
    times = len(names) // 2
    if names and names == own * times:
        return pa.array(own, pa.string()).take(pa.array(np.tile(np.array([0, 1], np.int32), times)))
    return pa.array(names, pa.string())


def struct_json(encoded: bytes | None) -> str | None:
    """The JSON text of a serialised `google.protobuf.Struct`, keys in order.

    Numbers that JSON has not are the texts `NaN`, `Infinity` and `-Infinity`, as protobuf writes them elsewhere. Raises
    google.protobuf's DecodeError for bytes that are none.
    """
    if encoded is None:
        return None
    struct = struct_pb2.Struct.FromString(encoded)
    try:
        return json_format.MessageToJson(struct, indent=None, sort_keys=True)
    except ValueError:
        return json.dumps(_plain(struct_pb2.Value(struct_value=struct)), sort_keys=True)


def _plain(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {name: _plain(each) for name, each in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_plain(each) for each in value.list_value.values]
    if kind == "number_value" and not math.isfinite(value.number_value):
        return "NaN" if math.isnan(value.number_value) else f"{'-' if value.number_value < 0 else ''}Infinity"
    return getattr(value, kind) if kind not in {None, "null_value"} else None


_TIMESTAMP: Final = "google.protobuf.Timestamp"


def parts(values: Sequence[bytes]) -> pa.RecordBatch:
    """Serialised events as columns of envelopes and of encoded bodies; raises DecodeError for what is no event."""
    names = [field.name for field in Parts.DESCRIPTOR.fields]
    types = [arrow_field(field) for field in Parts.DESCRIPTOR.fields]
    arrays = [
        pa.array(column, type_.type) for column, type_ in zip(_columns(Parts.DESCRIPTOR, values), types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, names=names)


def bodies(name: str, encoded: Sequence[bytes]) -> list[pa.Array]:
    """The columns of the bodies of type `name`; raises google.protobuf's DecodeError for one that is torn."""
    schema = arrow_schema(name)
    columns = _columns(twin_of(BODIES[name].full_name), encoded)
    for index, own in enumerate(BODIES[name].fields):
        if own.message_type is not None and own.message_type.full_name == STRUCT:
            columns[index] = [struct_json(item) for item in columns[index]]
    types = schema.types[len(schema.types) - len(columns) :]
    return [pa.array(values, type_) for values, type_ in zip(columns, types, strict=True)]


def _columns(descriptor: Descriptor, encoded: Sequence[bytes]) -> list[list[Any]]:
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
