"""What the fast and the plain decoder share: records grouped by body type, and the columns that say where they lay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain

import pyarrow as pa
from google.protobuf import json_format, struct_pb2

from projections.columns import INVALID, arrow_schema
from projections.records import Record


@dataclass(slots=True)
class Group:
    """The records of one body type, their bodies still encoded, and whether each is a regular fact (None: no fact)."""

    records: list[Record] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    regular: list[bool | None] = field(default_factory=list)


def log_columns(table: str, records: Sequence[Record], regular: Sequence[bool | None]) -> list[pa.Array]:
    """Where records lay and what they were: the columns `log_*`."""
    headers = [record.headers for record in records]
    ends = [0, *accumulate(map(len, headers))]
    pairs = list(chain.from_iterable(headers))
    names = pa.array([pair[0] for pair in pairs], pa.string())
    values = pa.array([pair[1] for pair in pairs], pa.binary())
    header = arrow_schema(INVALID).field("log_headers").type
    structs = pa.StructArray.from_arrays([names, values], fields=list(header.value_type))
    return [
        pa.array([record.topic for record in records], pa.string()),
        pa.array([record.partition for record in records], pa.int32()),
        pa.array([record.offset for record in records], pa.int64()),
        pa.array([record.timestamp for record in records], pa.int64()),
        pa.array([record.key for record in records], pa.binary()),
        pa.ListArray.from_arrays(pa.array(ends, pa.int32()), structs, type=header),
        pa.array([record.value for record in records], pa.binary()),
        pa.repeat(table, len(records)),
        pa.array(regular, pa.bool_()),
    ]


def invalid_table(invalid: Sequence[tuple[Record, str]]) -> pa.Table:
    """Records that are no event by contract, raw, each with the reason."""
    reasons = pa.array([reason for _, reason in invalid], pa.string())
    columns = log_columns(INVALID, [record for record, _ in invalid], [None] * len(invalid))
    return pa.table([*columns, reasons], schema=arrow_schema(INVALID))


def struct_json(encoded: bytes | None) -> str | None:
    """The JSON text of a serialised `google.protobuf.Struct`, keys in order."""
    if encoded is None:
        return None
    return json_format.MessageToJson(struct_pb2.Struct.FromString(encoded), indent=None, sort_keys=True)
