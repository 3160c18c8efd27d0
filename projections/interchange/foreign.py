"""Runs of other tools, as two tables beside the history: `foreign_runs` and `foreign_metrics`. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa

if TYPE_CHECKING:
    from projections.history import History

RUNS: Final = pa.schema(
    [
        ("source", pa.string()),
        ("run", pa.string()),
        ("name", pa.string()),
        ("experiment", pa.string()),
        ("status", pa.string()),
        ("started_at", pa.timestamp("ns")),
        ("settings", pa.map_(pa.string(), pa.string())),
        ("tags", pa.map_(pa.string(), pa.string())),
    ]
)
METRICS: Final = pa.schema(
    [
        ("source", pa.string()),
        ("run", pa.string()),
        ("name", pa.string()),
        ("step", pa.int64()),
        ("recorded_at", pa.timestamp("ns")),
        ("value", pa.float64()),
    ]
)


class Measured(NamedTuple):
    """One value of one metric of a run; `time_ns` is Unix time."""

    source: str
    run: str
    name: str
    step: int
    time_ns: int
    value: float


@dataclass(frozen=True, slots=True)
class Foreign:
    """What a place of another tool holds: runs, as rows of `foreign_runs` but for `started_ns`, and their values."""

    runs: Sequence[dict[str, Any]]
    metrics: Sequence[Measured]


def register(history: History, found: Iterable[Foreign]) -> None:
    """Put what was found beside the views of a history, where its SQL sees it."""
    places = list(found)
    runs = [each | {"started_at": each["started_ns"]} for place in places for each in place.runs]
    columns = list(zip(*(each for place in places for each in place.metrics), strict=True)) or [()] * len(METRICS)
    tables = {
        "foreign_runs": pa.Table.from_pylist(
            [{name: _pairs(each[name]) for name in RUNS.names} for each in runs], schema=RUNS
        ),
        "foreign_metrics": pa.Table.from_arrays(
            [pa.array(column, kind.type) for column, kind in zip(columns, METRICS, strict=True)], schema=METRICS
        ),
    }
    for name, table in tables.items():
        history.connection.register(name, table)


def _pairs(value: Any) -> Any:
    """A map as Arrow takes it."""
    return [(name, str(each)) for name, each in value.items()] if isinstance(value, dict) else value
