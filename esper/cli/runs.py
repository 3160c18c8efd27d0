"""`esper runs`: the runs of a data folder, the latest first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from esper.cli.history import history_of
from esper.cli.output import say, say_json, table
from projections.run_queries import all_runs

SILENT_AFTER: Final = timedelta(minutes=10)
"""Longer than most epochs take: a running run that has completed none for so long is shown as silent."""
_RUN_HEADERS: Final = ("run", "task", "policy", "status", "epochs", "accuracy", "control", "params", "kept", "started")
"""A control run is a column of the run that it belongs to; `kept` is how many germinated seeds fossilised."""


def runs_command(data_dir: Path, *, as_json: bool) -> None:
    """All runs, the latest first."""
    with history_of(data_dir) as history:
        found = all_runs(history)
    if as_json:
        say_json(found)
        return
    if not found:
        say("nothing was run in this data folder yet; start with `esper run`")
        return
    over = [run for run in found if run["control_of"] and run["status"] == "completed"]
    controls = {run["control_of"]: run["test_accuracy"] for run in over}
    known = {run["run_id"] for run in found}
    shown = [run for run in found if run["control_of"] not in known]
    say(table(_RUN_HEADERS, [_run_row(run, controls.get(run["run_id"])) for run in shown], right=(4, 5, 6, 7)))


def _run_row(run: dict[str, Any], control_accuracy: float | None) -> tuple[Any, ...]:
    germinated = run["seeds_germinated"]
    return (
        run["run_id"],
        run["task"],
        run["policy"],
        _status(run, datetime.now(UTC)),
        f"{run['epochs_done']}/{run['epochs_planned']}",
        _accuracy(run["test_accuracy"]),
        _accuracy(control_accuracy),
        f"{run['params_final'] or run['params_host']:,}",
        "-" if germinated is None else f"{run['seeds_fossilized']} of {germinated}",
        f"{run['started_at']:%Y-%m-%d %H:%M}",
    )


def _status(run: dict[str, Any], now: datetime) -> str:
    """How a run is; one whose trainer was killed says nothing any more, and nobody else can say that it is over."""
    last = run["last_at"].replace(tzinfo=UTC)
    silent = run["status"] == "running" and now - last > SILENT_AFTER
    return f"silent since {last:%H:%M}" if silent else str(run["status"])


def _accuracy(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
