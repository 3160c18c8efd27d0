"""From rows as the archive or the log has them to the flat rows that a job asked for, filters applied."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from projections import manifest
from projections.columns import LOG_COLUMNS
from projections.manifest import FILES
from projections.verify import damaged
from streams.feed.batch import coded
from streams.feed.columns import Column, column
from streams.feed.schema import Schema

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
