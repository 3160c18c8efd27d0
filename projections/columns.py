"""The columns of the archive: one table per body type, derived from the contracts and from nothing else.

A table's columns are where the record lay on the log (`log_*`), then the envelope, then the body's fields. A body field
that is called like one of the former gets the prefix `body_`. How a field becomes a column:

=====================  ==================================  =====================================
protobuf               Arrow (what the files hold)         DuckDB (what a reader sees)
=====================  ==================================  =====================================
bytes                  binary                              BLOB
enum                   int32 (unknown numbers are kept)    INTEGER; views turn it into text
message                struct, null where absent           STRUCT
repeated, map          list, map; empty where absent       LIST, MAP
optional, oneof        null where absent                   null where absent
Timestamp              timestamp[us, UTC]                  TIMESTAMP WITH TIME ZONE
Struct                 its JSON text                       VARCHAR
=====================  ==================================  =====================================
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import FieldDescriptor

from contracts.leyline.v1 import event_pb2

Descriptor: TypeAlias = Any

Field: TypeAlias = Any
"""A message's and a field's descriptor; protobuf's stubs give each two unrelated types, one per implementation."""

BODIES: Final[dict[str, Descriptor]] = {
    field.name: field.message_type for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields
}
"""Every body type by the name of its field in `Event`."""

INVALID: Final = "invalid"
"""The table of records that are no event by contract."""

TABLES: Final = (*BODIES, INVALID)

ROW_GROUP: Final = 122_880
"""Rows per row group: DuckDB's own size, so that its threads share a file evenly."""

LOG_COLUMNS: Final[dict[str, str]] = {
    "log_topic": "VARCHAR",
    "log_partition": "INTEGER",
    "log_offset": "BIGINT",
    "log_timestamp_ms": "BIGINT",
    "log_key": "BLOB",
    "log_headers": 'STRUCT("key" VARCHAR, "value" BLOB)[]',
    "log_raw": "BLOB",
    "log_body": "VARCHAR",
    "log_verdict": "UTINYINT",
}
"""Where a record lay and what it was, in DuckDB's types; `log_raw` are the serialised event's bytes, `log_body` the
table's name, so that files of several tables can be read in one scan, `log_verdict` what a fact is by
`esper.record.accept.Verdict`, null for what is no fact."""

ENVELOPE: Final[tuple[Field, ...]] = tuple(
    field for field in event_pb2.Event.DESCRIPTOR.fields if field.containing_oneof is None
)

_DUCKDB: Final[dict[int, str]] = {
    FieldDescriptor.TYPE_BOOL: "BOOLEAN",
    FieldDescriptor.TYPE_BYTES: "BLOB",
    FieldDescriptor.TYPE_DOUBLE: "DOUBLE",
    FieldDescriptor.TYPE_ENUM: "INTEGER",
    FieldDescriptor.TYPE_FIXED64: "UBIGINT",
    FieldDescriptor.TYPE_FLOAT: "FLOAT",
    FieldDescriptor.TYPE_INT32: "INTEGER",
    FieldDescriptor.TYPE_INT64: "BIGINT",
    FieldDescriptor.TYPE_STRING: "VARCHAR",
    FieldDescriptor.TYPE_UINT32: "UINTEGER",
    FieldDescriptor.TYPE_UINT64: "UBIGINT",
}

_TIMESTAMP: Final = "google.protobuf.Timestamp"

STRUCT: Final = "google.protobuf.Struct"


def is_map(field: Field) -> bool:
    """Whether a field is a map."""
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def duckdb_type(field: Field) -> str:
    """DuckDB's type of the column that holds `field`."""
    if is_map(field):
        entry = field.message_type.fields_by_name
        return f"MAP({_duckdb_single(entry['key'])}, {_duckdb_single(entry['value'])})"
    single = _duckdb_single(field)
    return f"{single}[]" if field.is_repeated else single


def _duckdb_single(field: Field) -> str:
    if field.message_type is None:
        return _DUCKDB[field.type]
    if field.message_type.full_name == _TIMESTAMP:
        return "TIMESTAMP WITH TIME ZONE"
    if field.message_type.full_name == STRUCT:
        return "VARCHAR"
    inner = ", ".join(f'"{child.name}" {duckdb_type(child)}' for child in field.message_type.fields)
    return f"STRUCT({inner})"


def column_name(field: Field) -> str:
    """What the column of a body's field is called."""
    taken = field.name in LOG_COLUMNS or any(field.name == own.name for own in ENVELOPE)
    return f"body_{field.name}" if taken else str(field.name)


@cache
def duckdb_columns(table: str) -> dict[str, str]:
    """The columns of one of `TABLES` and their DuckDB types, in order."""
    if table == INVALID:
        return {**LOG_COLUMNS, "reason": "VARCHAR"}
    envelope = {field.name: duckdb_type(field) for field in ENVELOPE}
    body = {column_name(field): duckdb_type(field) for field in BODIES[table].fields}
    return {**LOG_COLUMNS, **envelope, **body}


@cache
def shape_of(table: str) -> str:
    """A short digest of a table's columns: files of one shape can be read together."""
    return hashlib.sha256(repr(duckdb_columns(table)).encode()).hexdigest()[:12]


@cache
def arrow_schema(table: str) -> Any:
    """The pyarrow schema of one of `TABLES`, the same columns as `duckdb_columns`."""
    import pyarrow as pa  # noqa: PLC0415  readers need no Arrow, and importing it costs 0.1 s

    header = pa.struct([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.binary())])
    log = [
        pa.field("log_topic", pa.string(), nullable=False),
        pa.field("log_partition", pa.int32(), nullable=False),
        pa.field("log_offset", pa.int64(), nullable=False),
        pa.field("log_timestamp_ms", pa.int64(), nullable=False),
        pa.field("log_key", pa.binary()),
        pa.field("log_headers", pa.list_(pa.field("item", header, nullable=False)), nullable=False),
        pa.field("log_raw", pa.binary()),
        pa.field("log_body", pa.string(), nullable=False),
        pa.field("log_verdict", pa.uint8()),
    ]
    if table == INVALID:
        return pa.schema([*log, pa.field("reason", pa.string(), nullable=False)])
    envelope = [arrow_field(field) for field in ENVELOPE]
    body = [arrow_field(field).with_name(column_name(field)) for field in BODIES[table].fields]
    return pa.schema([*log, *envelope, *body])


def arrow_field(field: Field) -> Any:
    """The pyarrow field of a protobuf field, with the nullability of the table above."""
    import pyarrow as pa  # noqa: PLC0415  as above

    if is_map(field):
        entry = field.message_type.fields_by_name
        value = arrow_field(entry["value"]).with_nullable(False)
        return pa.field(field.name, pa.map_(_arrow_single(entry["key"]), value), nullable=False)
    if field.is_repeated:
        item = pa.field("item", _arrow_single(field), nullable=False)
        return pa.field(field.name, pa.list_(item), nullable=False)
    return pa.field(field.name, _arrow_single(field), nullable=field.has_presence)


def _arrow_single(field: Field) -> Any:
    import pyarrow as pa  # noqa: PLC0415  as above

    simple = {
        "BOOLEAN": pa.bool_(),
        "BLOB": pa.binary(),
        "DOUBLE": pa.float64(),
        "INTEGER": pa.int32(),
        "UBIGINT": pa.uint64(),
        "FLOAT": pa.float32(),
        "BIGINT": pa.int64(),
        "VARCHAR": pa.string(),
        "UINTEGER": pa.uint32(),
        "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
    }
    known = simple.get(_duckdb_single(field))
    if known is not None:
        return known
    return pa.struct([arrow_field(child) for child in field.message_type.fields])


@cache
def encodings(schema: Any) -> tuple[list[str], dict[str, str]]:
    """The leaf columns that get a dictionary, and the encodings of the others, by their paths in the file."""
    import pyarrow as pa  # noqa: PLC0415  readers need no Arrow, and importing it costs 0.1 s

    dictionary: list[str] = []
    encodings: dict[str, str] = {}
    for path, type_ in _leaves("", pa.struct(list(schema))):
        if pa.types.is_string(type_):
            dictionary.append(path)
        elif pa.types.is_floating(type_):
            encodings[path] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_integer(type_) or pa.types.is_timestamp(type_):
            encodings[path] = "DELTA_BINARY_PACKED"
    return dictionary, encodings


def _leaves(path: str, type_: Any) -> list[tuple[str, Any]]:
    import pyarrow as pa  # noqa: PLC0415  as above

    if pa.types.is_struct(type_):
        children = [(f"{path}.{child.name}" if path else child.name, child.type) for child in type_]
    elif pa.types.is_map(type_):
        children = [(f"{path}.key_value.key", type_.key_type), (f"{path}.key_value.value", type_.item_type)]
    elif pa.types.is_list(type_):
        children = [(f"{path}.list.element", type_.value_type)]
    else:
        return [(path, type_)]
    return [leaf for child_path, child in children for leaf in _leaves(child_path, child)]


def quoted(value: str | Path) -> str:
    """A string literal of SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def pattern(path: Path) -> str:
    """A path as DuckDB's reading functions take it: what is a wildcard to them stands for itself."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in str(path))
