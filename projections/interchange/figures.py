"""What a run came to, in the terms of every other tool: figures on an axis, notes, settings, tags.

Of an epoch or a step that a rollback or a resume had repeated the last is taken, and facts that do not survive are left
out. A figure of an epoch has the axis `epoch`, counted from 1 as epochs were completed; one of a step has the axis
`step`, optimiser steps so far. Times are those of the record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from esper.errors import InvalidInput

if TYPE_CHECKING:
    from projections.history import History

Axis = Literal["epoch", "step"]

_POINTS: Final = """
WITH point AS (
    SELECT 'epoch/' || name AS name, 'epoch' AS axis, epoch AS place, step, recorded_at, value
    FROM (
        SELECT epoch, step, recorded_at, unnest([
            {'name': 'training_loss', 'value': training_loss::DOUBLE},
            {'name': 'probe_loss', 'value': probe_loss::DOUBLE},
            {'name': 'params', 'value': params::DOUBLE}, {'name': 'flops', 'value': flops::DOUBLE},
            {'name': 'duration_s', 'value': duration_s::DOUBLE}
        ], recursive := true)
        FROM epochs WHERE run_id = $run AND surviving
    )
    UNION ALL
    SELECT CASE measured_on WHEN 'probe' THEN 'epoch/probe_' ELSE 'test/' END || name, 'epoch', epoch, step,
        recorded_at, value
    FROM metrics WHERE run_id = $run AND surviving
    UNION ALL
    SELECT 'epoch/hook_ms', 'epoch', epoch, step, recorded_at, latency_ms FROM hooks WHERE run_id = $run
    UNION ALL
    SELECT CASE WHEN seed_id IS NULL THEN 'step/' || name ELSE 'seeds/' || seed_id || '/' || name END, 'step', step,
        step, recorded_at, value
    FROM telemetry WHERE run_id = $run AND source = 'trainer'
    UNION ALL
    SELECT 'own/' || name, 'step', step, step, recorded_at, value
    FROM telemetry WHERE run_id = $run AND source = 'script'
)
SELECT name, axis, place, step, epoch_ns(recorded_at) AS time_ns, value
FROM point
WHERE value IS NOT NULL AND recorded_at IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY name, place ORDER BY recorded_at DESC) = 1
ORDER BY time_ns, step, axis DESC, name
"""

_NOTES: Final = """
SELECT 'seeds/' || seed_id AS name, epoch, step, epoch_ns(recorded_at) AS time_ns,
    from_stage || ' → ' || to_stage || coalesce(' ' || blueprint_id, '') || coalesce(': ' || nullif(reason, ''), '')
        AS text
FROM transitions WHERE run_id = $run AND surviving
UNION ALL
SELECT 'decisions', epoch, step, epoch_ns(recorded_at), chosen || ': ' || reason
FROM decisions WHERE run_id = $run AND surviving
ORDER BY time_ns, name
"""

_SEEDS: Final = "SELECT seed_id, stage, blueprint_id FROM seeds WHERE run_id = $run ORDER BY seed_id"

_RUN: Final = """
SELECT run_id, status, task, policy, lifecycle, control_of, static_of, parent_run_id, device, esper_version,
    config_json, epoch_ns(started_at) AS started_ns, epoch_ns(last_at) AS ended_ns
FROM runs WHERE run_id = $run
"""

_NO_TAGS: Final = frozenset({"config_json", "started_ns", "ended_ns"})
_LEFT_OUT: Final = frozenset({"dossier", "structure"})
"""Settings that are histories of their own."""


@dataclass(frozen=True, slots=True)
class Point:
    """A figure: `at` is on its axis, `step` the optimiser step of then; `time_ns` is Unix time."""

    name: str
    axis: Axis
    at: int
    step: int
    time_ns: int
    value: float


@dataclass(frozen=True, slots=True)
class Note:
    """What happened to a seed, or was decided, in words."""

    name: str
    epoch: int
    step: int
    time_ns: int
    text: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A run as other tools are given it. `tags` are what people look for, `settings` its configuration, flat."""

    run_id: str
    task: str
    status: str
    started_ns: int
    ended_ns: int
    settings: Mapping[str, str | float | bool]
    tags: Mapping[str, str]
    points: tuple[Point, ...]
    notes: tuple[Note, ...]

    @property
    def label(self) -> str:
        """What a person calls it: its task, and its id."""
        return f"{self.task} {self.run_id}"


def taken(history: History, run_id: str) -> Taken:
    """Everything of a run; raises InvalidInput where the history has none of that id."""
    given = {"run": run_id}
    answer = history.execute(_RUN, given)
    names = [column[0] for column in answer.description]
    found = answer.fetchall()
    if not found:
        raise InvalidInput(f"there is no run {run_id}; `esper runs` lists them")
    run: dict[str, Any] = dict(zip(names, found[0], strict=True))
    seeds = history.execute(_SEEDS, given).fetchall()
    tags = {f"esper.{name}": str(run[name]) for name in names if run[name] is not None and name not in _NO_TAGS}
    tags |= {f"esper.seed.{seed}": " ".join(filter(None, (stage, blueprint))) for seed, stage, blueprint in seeds}
    return Taken(
        run_id=run_id,
        task=run["task"],
        status=run["status"],
        started_ns=run["started_ns"] or 0,
        ended_ns=run["ended_ns"] or 0,
        settings=dict(_flat(json.loads(run["config_json"] or "{}"))),
        tags=tags,
        points=tuple(Point(*row) for row in history.execute(_POINTS, given).fetchall()),
        notes=tuple(Note(*row) for row in history.execute(_NOTES, given).fetchall()),
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | float | bool]]:
    """Settings under one name each, such as `seeds.blend_epochs`; lists as text."""
    for name, value in values.items():
        if isinstance(value, Mapping) and name not in _LEFT_OUT:
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None and name not in _LEFT_OUT:
            yield f"{prefix}{name}", value if isinstance(value, str | int | float | bool) else json.dumps(value)
