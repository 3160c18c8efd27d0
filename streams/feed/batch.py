"""From rows as the archive or the log has them to tensors: filters, flat columns, batches; no Python per row."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from projections import manifest
from projections.columns import LOG_COLUMNS
from projections.manifest import FILES
from projections.verify import damaged
from streams.feed.schema import LONGEST, Column, Field, Schema, column

PLACE: Final = ("log_partition", "log_offset")
WAIT_S: Final = 10.0
"""How long a run may be unknown: its first fact is archived a second after it was logged."""
_log = logging.getLogger(__name__)


class Tasks:
    """Which runs are of the wanted tasks, as the archive's `run_started` says."""

    def __init__(self, archive: Path, wanted: Iterable[str]) -> None:
        self._archive = archive
        self._wanted = pa.array(sorted(wanted), pa.string())
        self._read: set[str] = set()
        self._known: dict[str, bool] = {}

    def among(self, runs: Any) -> Any:
        """Whether each of `runs` is of a wanted task. One that nobody has heard of in `WAIT_S` is not, and is told."""
        deadline = time.monotonic() + WAIT_S
        distinct = pc.unique(runs).to_pylist()
        while unknown := [run for run in distinct if run not in self._known]:
            self._learn()
            if all(run in self._known for run in unknown):
                break
            if time.monotonic() > deadline:
                _log.warning("the archive does not know the task of %s: left out", ", ".join(unknown))
                self._known |= dict.fromkeys(unknown, False)
            time.sleep(0.1)
        wanted = [run for run in distinct if self._known[run]]
        return pc.is_in(runs, value_set=pa.array(wanted, pa.string()))

    def _learn(self) -> None:
        new = [entry for entry in manifest.load(self._archive).of("run_started") if entry.name not in self._read]
        bad = {damage.name: damage for damage in damaged(self._archive, new)}
        for entry in new:
            self._read.add(entry.name)
            if entry.name in bad:
                _log.warning("%s", bad[entry.name])
                continue
            path = self._archive / FILES / entry.name
            started = pq.read_table(path, columns=["run_id", "task"], use_threads=False)
            wanted = pc.is_in(started["task"], value_set=self._wanted)
            self._known |= dict(zip(started["run_id"].to_pylist(), wanted.to_pylist(), strict=True))


class Selection:
    """One schema with the feed's filters: which columns must be read, and how they become flat rows."""

    def __init__(self, schema: Schema, runs: Iterable[str] | None, tasks: Tasks | None) -> None:
        self.schema = schema
        self._runs = None if runs is None else pa.array(sorted(runs), pa.string())
        self._tasks = tasks
        self._run = column(schema.body, "run_id")
        self._read: list[Column] = [*schema.columns, *(condition.column for condition in schema.where)]
        if self._runs is not None or tasks is not None:
            self._read.append(self._run)

    @property
    def stored(self) -> list[str]:
        """The columns of a Parquet file that must be read."""
        return sorted({*PLACE, *(each.stored for each in self._read)})

    @property
    def tops(self) -> list[str]:
        """The columns of the archive's table that must be there, without the place."""
        return sorted({each.top for each in self._read})

    @property
    def envelope(self) -> list[str]:
        """The envelope's fields that must be decoded."""
        return sorted({each.top for each in self._read if each.body_field is None and each.top not in LOG_COLUMNS})

    @property
    def body_fields(self) -> list[str]:
        """The body's own fields that must be decoded."""
        return sorted({each.body_field for each in self._read if each.body_field is not None})

    def flat(self, table: pa.Table) -> pa.Table:
        """The rows that pass, as the place and one flat column per field, called "0", "1", ..., in their order."""
        kept = self._passing(table)
        columns = {name: table.column(name) for name in PLACE}
        for place, (field, found) in enumerate(zip(self.schema.fields, self.schema.columns, strict=True)):
            array = found.of(table)
            columns[str(place)] = coded(array, field.among) if field.among else array
        flat = pa.table(columns)
        return flat if kept is None else flat.filter(kept)

    def _passing(self, table: pa.Table) -> Any:
        met = [condition.met(condition.column.of(table)) for condition in self.schema.where]
        if self._runs is not None:
            met.append(pc.is_in(self._run.of(table), value_set=self._runs))
        if self._tasks is not None:
            met.append(self._tasks.among(self._run.of(table)))
        passing = None
        for each in met:
            passing = each if passing is None else pc.and_(passing, each)
        return passing


def offsets_of(flat: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The offsets of flat rows."""
    found: np.ndarray[Any, np.dtype[np.int64]] = flat.column("log_offset").to_numpy()
    return found


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
