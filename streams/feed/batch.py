"""Rows as tensors: whole columns at a time, no Python per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from streams.feed.schema import LONGEST, Field, Schema


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one body type as tensors by name; `len` is how many events. Shapes and dtypes: see `schema.py`."""

    body: str
    tensors: Mapping[str, Tensor]
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def matrix(self, names: Sequence[str]) -> Tensor:
        """Tensors of one shape side by side as float32: (n, names), or (n, p, names) where they are padded lists."""
        return torch.stack([self.tensors[name].to(torch.float32) for name in names], dim=-1)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same on another device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in page-locked memory; a DataLoader with `pin_memory=True` calls this."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Any) -> Self:
        return type(self)(self.body, {name: change(tensor) for name, tensor in self.tensors.items()}, self.rows)


def decode(schema: Schema, rows: pa.Table) -> Batch:
    """The batch of flat rows: column i of `schema` is the column named `str(i)`."""
    tensors: dict[str, Tensor] = {}
    for place, field in enumerate(schema.fields):
        column = rows.column(str(place))
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if pa.types.is_list(array.type):
            tensors |= _lists(field, array)
        elif pa.types.is_binary(array.type):
            tensors[field.key] = _bytes(array, field.width)
        else:
            tensors[field.key] = _numbers(array)
    return Batch(schema.body, tensors, rows.num_rows)


def coded(array: Any, among: Sequence[str]) -> Any:
    """Text as numbers: 1 + its place in `among`, 0 for any other; lists of text as lists of numbers."""
    if pa.types.is_list(array.type):
        return pa.ListArray.from_arrays(array.offsets, coded(array.values, among))
    places = pc.index_in(array, value_set=pa.array(among, pa.string()))
    return pc.add(pc.fill_null(places, -1), 1)


def _numbers(array: Any) -> Tensor:
    """One tensor of a column without lists; it owns its memory, because Arrow's may not be written to."""
    if array.null_count:
        array = array.fill_null(float("nan") if pa.types.is_floating(array.type) else _zero(array.type))
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    values = array.to_numpy(zero_copy_only=False)
    keep = values.dtype in {np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.bool_)}
    return torch.from_numpy(np.array(values, dtype=None if keep else np.int64))


def _zero(type_: Any) -> pa.Scalar:
    return pa.scalar(0, pa.int64()).cast(type_)


def _bytes(array: Any, width: int) -> Tensor:
    """Bytes of fixed width; shorter ones end in zeros, longer ones are cut."""
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    content = np.frombuffer(array.buffers()[2] or b"", np.uint8)
    lengths = np.minimum(np.diff(offsets), width)
    if len(lengths) and (lengths == width).all() and offsets[-1] - offsets[0] == width * len(lengths):
        return torch.from_numpy(content[offsets[0] : offsets[-1]].reshape(-1, width).copy())
    places = np.arange(width)
    there = places < lengths[:, None]
    made = np.zeros((len(lengths), width), np.uint8)
    made[there] = content[(offsets[:-1, None] + places)[there]]
    return torch.from_numpy(made)


def _lists(field: Field, array: Any) -> dict[str, Tensor]:
    offsets = array.offsets.to_numpy().astype(np.int64)
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    values = _numbers(array.values.slice(first, last - first))
    offsets -= first
    if field.pad is None:
        return {field.key: values, f"{field.key}.offsets": torch.from_numpy(offsets)}
    lengths = np.diff(offsets)
    wide = int(lengths.max(initial=0)) if field.pad == LONGEST else field.pad
    places = np.arange(wide)
    mask = places < lengths[:, None]
    padded = torch.zeros((len(lengths), wide), dtype=values.dtype)
    there = torch.from_numpy(mask)
    if (lengths <= wide).all():
        padded[there] = values
    else:
        padded[there] = values[torch.from_numpy((offsets[:-1, None] + places)[mask])]
    return {field.key: padded, f"{field.key}.mask": there}
