"""A table as the bytes of a Parquet file, with encodings chosen for what events are made of.

Ids are random, so a dictionary of them only costs; numbers that count up pack well as differences; floats compress
better with their bytes split into streams. lz4, because it takes half the time of zstd level 1 for a fifth more bytes,
and compaction rewrites these files soon, with zstd.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 122_880
"""Rows per row group: DuckDB's own size, so that its threads share a file evenly."""


def encode(table: pa.Table) -> bytes:
    """`table` as a Parquet file."""
    dictionary, encodings = _encodings(table.schema)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        compression="lz4",
        use_dictionary=dictionary,
        column_encoding=encodings,
        store_schema=False,
        data_page_version="1.0",
    )
    return bytes(memoryview(sink.getvalue()))


@cache
def _encodings(schema: pa.Schema) -> tuple[list[str], dict[str, str]]:
    """The leaf columns that get a dictionary, and the encodings of the others, by their paths in the file."""
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
    if pa.types.is_struct(type_):
        children = [(f"{path}.{child.name}" if path else child.name, child.type) for child in type_]
    elif pa.types.is_map(type_):
        children = [(f"{path}.key_value.key", type_.key_type), (f"{path}.key_value.value", type_.item_type)]
    elif pa.types.is_list(type_):
        children = [(f"{path}.list.element", type_.value_type)]
    else:
        return [(path, type_)]
    return [leaf for child_path, child in children for leaf in _leaves(child_path, child)]
