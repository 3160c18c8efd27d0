"""What the pages of a Parquet file unpack to, by their own headers.

A footer says it too, but readers go by the headers: one that says a gigabyte has a gigabyte taken for it, whatever the
footer says (tried with DuckDB 2.0: 33 KB, of which the footer said that they unpack to 1,000 bytes, took a gigabyte).
Only headers are read here, in Thrift's compact protocol, as
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift has them; nothing is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterable
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Final, NamedTuple

_STOP: Final = 0
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 7, 8, 12
_NUMBERS: Final = frozenset({4, 5, 6})
"""Whole numbers of 16, 32 and 64 bits."""
_DEEPEST: Final = 4
"""Structs in structs: a page's header has that of its kind in it, and statistics in that."""
_UNPACKED, _PACKED = 2, 3
"""The fields of a page's header: how many bytes it has without it, unpacked and as it lies there,"""
_DATA, _DICTIONARY, _DATA_2 = 5, 7, 8
"""and the header of its kind,"""
_VALUES: Final = 1
"""in which a field says how many values there are."""


class Chunk(NamedTuple):
    """Of one column in one group of rows, as a footer has it: values, packed bytes, and where its pages begin."""

    values: int
    packed: int
    data_at: int
    dictionary_at: int | None

    @property
    def begins_at(self) -> int:
        """Where the first page lies: that of the dictionary, where there is one."""
        return min(self.data_at, self.dictionary_at or self.data_at)


def unpacked_bytes(path: Path, chunks: Iterable[Chunk]) -> int:
    """How many bytes the pages of these chunks of a file unpack to, headers included; only headers are read.

    Raises OSError where the file cannot be read, and ValueError where a chunk's pages do not hold as many values as the
    footer says, so that a reader would read on behind them, where a dictionary says that it has more values than it can
    have, and where something else lies there.
    """
    with path.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as file:
        return sum(_of_chunk(file, chunk) for chunk in chunks)


def _of_chunk(file: mmap, chunk: Chunk) -> int:
    unpacked = held = 0
    at, end = chunk.begins_at, chunk.begins_at + chunk.packed
    if not 0 <= at <= end <= len(file):
        raise ValueError(f"a chunk from {at} to {end} is not in it")
    while at < end:
        begun = at
        header, at = _struct(file, at)
        size, packed = header.get(_UNPACKED, -1), header.get(_PACKED, -1)
        if size < 0 or packed < 0 or at + packed > end:
            raise ValueError(f"a page says that it has {packed} bytes, and {size} unpacked")
        listed = _values(header, _DICTIONARY)
        if not 0 <= listed <= size:
            raise ValueError(f"a dictionary says that it has {listed} values in {size} bytes")
        held += _values(header, _DATA) + _values(header, _DATA_2)
        unpacked += at - begun + size
        at += packed
    if held != chunk.values:
        raise ValueError(f"its pages hold {held} values, and its footer says {chunk.values}")
    return unpacked


def _values(header: dict[int, Any], kind: int) -> int:
    within = header.get(kind)
    return int(within.get(_VALUES, -1)) if isinstance(within, dict) else 0


def _struct(file: mmap, at: int, depth: int = 1) -> tuple[dict[int, Any], int]:
    """The numbers and structs of a struct, by their fields, and where it ends. Raises ValueError where it is none."""
    found: dict[int, Any] = {}
    field = 0
    try:
        while (head := file[at]) != _STOP:
            at += 1
            if not head >> 4:
                raise ValueError("a page's header has a field that counts anew, which none has")
            field += head >> 4
            kind = head & 15
            if kind in _NUMBERS:
                value, at = _varint(file, at)
                found[field] = value >> 1 ^ -(value & 1)  # 0, -1, 1, -2 and so on
            elif kind == _STRUCT and depth < _DEEPEST:
                found[field], at = _struct(file, at, depth + 1)
            elif kind == _BINARY:
                size, at = _varint(file, at)
                at += size
            elif kind in (_BYTE, _DOUBLE):
                at += 1 if kind == _BYTE else 8
            elif kind not in (_TRUE, _FALSE):
                raise ValueError(f"a page's header has a field of kind {kind}, which none has")
    except IndexError:
        raise ValueError("a page's header ends beyond the file") from None
    return found, at + 1


def _varint(file: mmap, at: int) -> tuple[int, int]:
    """A number as Thrift packs it, seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while (byte := file[at]) & 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if shift > 63:
            raise ValueError("a number of a page's header has no end")
    return value | byte << shift, at + 1
