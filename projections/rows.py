"""The columns `log_*`: where records lay and what they were, valid or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from google.protobuf import json_format, struct_pb2

from projections.columns import INVALID, arrow_schema
from projections.records import Batch, Headers

Item = TypeVar("Item")


def log_columns(batches: Sequence[Batch], raw: pa.Array) -> list[pa.Array]:
    """The columns `log_topic` to `log_raw` of all records of `batches`, in their order; `raw` are their values."""
    counts = [len(batch) for batch in batches]
    topics = pa.array([batch.topic for batch in batches], pa.string())
    of_batch = np.repeat(np.arange(len(batches)), counts)
    return [
        topics.take(pa.array(of_batch)),
        pa.array(np.repeat([batch.partition for batch in batches], counts).astype(np.int32)),
        pa.array(_flat(batch.offsets for batch in batches), pa.int64()),
        pa.array(_flat(batch.timestamps for batch in batches), pa.int64()),
        pa.array(_flat(batch.keys for batch in batches), pa.binary()),
        _header_column(_flat(batch.headers for batch in batches)),
        raw,
    ]


def _flat(columns: Iterable[Iterable[Item]]) -> list[Item]:
    return list(chain.from_iterable(columns))


def _header_column(headers: list[Headers]) -> pa.Array:
    words: list[Any] = _flat(chain.from_iterable(headers))  # names and values in turn
    ends = list(accumulate(map(len, headers), initial=0))
    type_ = arrow_schema(INVALID).field("log_headers").type
    structs = pa.StructArray.from_arrays(
        [pa.array(words[0::2], pa.string()), pa.array(words[1::2], pa.binary())], fields=list(type_.value_type)
    )
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), structs, type=type_)


def struct_json(encoded: bytes | None) -> str | None:
    """The JSON text of a serialised `google.protobuf.Struct`, keys in order."""
    if encoded is None:
        return None
    return json_format.MessageToJson(struct_pb2.Struct.FromString(encoded), indent=None, sort_keys=True)
