"""`esper runs`: what was run and what waits, the latest first, as far back as is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.cli.history import history_of
from esper.cli.output import DIM, complain, say, say_json_rows, styled, table
from esper.errors import InvalidInput
from esper.leyline.envelope import Event, body_of
from esper.leyline.json_text import configuration
from esper.leyline.names import meant
from esper.metric import Figure, figure_of_row
from esper.record.work import COMPLETED, FAILED, INTERRUPTED, QUEUED, RUNNING, WITHDRAWN, Asked
from esper.weatherlight.alive import lives
from projections.run_list import DIED, Sought, all_work, found_runs, waiting

if TYPE_CHECKING:
    from projections.history import History

SHOWN: Final = 30
"""Rows of the table where nothing else is asked for: what was run lately, on one screen or two."""
STATUSES: Final = (QUEUED, RUNNING, DIED, COMPLETED, FAILED, INTERRUPTED, "stopped", "superseded", WITHDRAWN)
_UNITS: Final = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
SILENT_AFTER: Final = timedelta(minutes=10)
"""Longer than most epochs take: of a running run that has completed none for so long it is said when it was heard."""


TROUBLED: Final = ("failed", "stopped", "interrupted")
LONGEST_REASON: Final = 160
"""Characters of a reason that stand in the list; `esper runs --json` has it whole."""
_RUN_HEADERS: Final = (
    *("run", "task", "policy", "status", "epochs", "metric", "test", "control", "static", "params", "kept", "began"),
)
"""A control or static run is a column of the run that it belongs to; `kept` is how many germinated seeds fossilised."""


def sought(
    limit: int | None, task: str, statuses: Iterable[str], since: str, *, as_json: bool, now: datetime | None = None
) -> Sought:
    """What the options of `esper runs` ask for; raises InvalidInput for a status or a time that is none.

    Without a `limit` the table has the newest and JSON has all; 0 is all of both.
    """
    wanted = frozenset(statuses)
    for status in sorted(wanted - set(STATUSES)):
        raise InvalidInput(f"no run has status {status!r}; {meant(status, STATUSES, 'one of ' + ', '.join(STATUSES))}")
    most = (None if as_json else SHOWN) if limit is None else limit or None
    return Sought(task, wanted, _moment(since, now or datetime.now(UTC)) if since else None, most)


def _moment(text: str, now: datetime) -> datetime:
    """A time of UTC, without its zone as the archive has it: so long ago, or a date with or without a time of day."""
    if ago := re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h|d)", text.strip()):
        at = now - timedelta(seconds=float(ago[1]) * _UNITS[ago[2]])
    else:
        try:
            at = datetime.fromisoformat(text.strip())
        except ValueError:
            raise InvalidInput(
                f"--since {text!r} is no time: give how long ago, as 90min, 12h or 7d, or a date of UTC, as "
                "2026-11-30 or 2026-11-30T18:00"
            ) from None
    return (at if at.tzinfo is None else at.astimezone(UTC)).replace(tzinfo=None)


def runs_command(data_dir: Path, sought: Sought, *, as_json: bool) -> None:
    """The runs that are sought, the latest first, those before them that were asked for and have not begun."""
    with history_of(data_dir) as history:
        from projections.cross_checks import unverified  # noqa: PLC0415 - DuckDB, and only where there is a history

        for key, _, runs in unverified(history):
            if runs:
                complain(
                    f"{len(runs)} runs are left out, because no key here verifies what was signed by key {key}; "
                    "`esper archive verify` says what to do"
                )
        wait, later = waiting(history, sought)
        rows, older = found_runs(history, sought, _lives)
        waits = [work_row(run) for run in wait]
        if as_json:
            asked = {run.run_id: work_row(run) for run in all_work(history)}
            of_rows = (row | {"work": asked.get(row["run_id"])} for row in rows)
            of_waits = ({"run_id": row["run_id"], "status": row["status"], "work": row} for row in waits)
            say_json_rows(chain(of_waits, of_rows))
        else:
            _say_table(waits, _with_work(history, rows), sought)
    if later or older:
        kinds = ((older, "older run" if older == 1 else "older runs"), (later, "that wait"))
        left = " and ".join(f"{count:,} {what}" for count, what in kinds if count)
        told = f"left out: {left}; `esper runs --limit 0` shows all"
        complain(told) if as_json else say(styled(told, DIM))


def runs_now(history: History, most: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """The newest `most` that wait to begin, the newest `most` runs and all that go on, and how many are left out.

    Runs are rows of `runs`, those that stand beside them, too; only older runs are counted as left out. Each row says
    besides whether its trainer lives, where that can be told (a run whose trainer is gone has died), and what the fleet
    has of it.
    """
    wait, _ = waiting(history, Sought(most=most))
    rows, older = found_runs(history, Sought(most=most), _lives)
    found = list(rows)
    if older:
        known = {row["run_id"] for row in found}
        going, _ = found_runs(history, Sought(statuses=frozenset({RUNNING}), most=most), _lives)
        more = [row for row in going if row["run_id"] not in known]
        older -= sum(not (row["control_of"] or row["static_of"]) for row in more)
        found += more
    return [work_row(run) for run in wait], _with_work(history, found), older


def _with_work(history: History, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found = list(rows)
    asked = {run.run_id: work_row(run) for run in all_work(history, [row["run_id"] for row in found])}
    return [row | {"work": asked.get(row["run_id"])} for row in found]


def _lives(claim: Event) -> bool | None:
    return lives(body_of(claim).machine.process)


def _say_table(waits: list[dict[str, Any]], found: list[dict[str, Any]], sought: Sought) -> None:
    if not found and not waits:
        none = "nothing was run in this data folder yet; start with `esper run`"
        say(none if sought == Sought(most=sought.most) else "no run here is like that; `esper runs` shows the newest")
        return
    beside = {
        (run[role], role): figure_of_row(run)
        for run in found
        for role in ("control_of", "static_of")
        if run[role] and run["status"] == "completed"
    }
    known = {run["run_id"] for run in found}
    shown = [run for run in found if run["control_of"] not in known and run["static_of"] not in known]
    rows = [
        _run_row(run, *(beside.get((run["run_id"], role)) for role in ("control_of", "static_of"))) for run in shown
    ]
    say(table(_RUN_HEADERS, [*map(_waiting_row, waits), *rows], right=(4, 6, 7, 8, 9)))


def work_row(run: Asked) -> dict[str, Any]:
    """A run that was submitted, as JSON has it."""
    body = run.body
    config = configuration(body.config_json) if body.config_json else {}
    return {
        "run_id": run.run_id,
        "status": run.status,
        "host": run.host or None,
        "attempts": run.attempt,
        "reason": run.reason or None,
        "task": config.get("task"),
        "policy": config.get("policy"),
        "parent_run_id": body.parent_run_id or None,
        "fork_step": body.step if body.parent_run_id else None,
        "fork_change": body.change or None,
        "batch": body.batch,
        "place": body.place,
        "priority": body.priority,
        "labels": dict(body.labels),
        "submitted_by": body.submitted_by,
        "requested_at": datetime.fromtimestamp(run.requested_at_ns / 1e9, UTC),
        "told": told_of(run),
    }


def told_of(run: Asked) -> str:
    """How the fleet has a run: queued, running and where, or what came of it."""
    if run.status == RUNNING:
        return f"running on {run.host}" + (f", attempt {run.attempt}" if run.attempt > 1 else "")
    why = run.reason[:LONGEST_REASON]
    if run.status == QUEUED and run.attempt:
        return f"queued again: {why}" if why else "queued again"
    return f"{run.status}: {why}" if why and run.status in {FAILED, WITHDRAWN} else run.status


def _waiting_row(work: dict[str, Any]) -> tuple[Any, ...]:
    """A run that was submitted and has not begun."""
    task = str(work["task"] or "-")
    if work["parent_run_id"]:
        task = f"fork of {work['parent_run_id']} at step {work['fork_step']}: {work['fork_change']}"
    asked_at = _began(work["requested_at"], datetime.now(UTC))
    return work["run_id"], task, work["policy"] or "-", work["told"], *["-"] * 7, asked_at


def _run_row(run: dict[str, Any], control: Figure | None, static: Figure | None) -> tuple[Any, ...]:
    germinated, told = run["seeds_germinated"], figure_of_row(run) or figure_of_row(run, "probe")
    beside = [None if told is None or each is None or not each.is_like(told) else each for each in (control, static)]
    return (
        run["run_id"],
        _task(run),
        run["policy"],
        _status(run, datetime.now(UTC)),
        f"{run['epochs_done']}/{run['epochs_planned']}",
        "-" if told is None else told.label,
        *("-" if each is None else each.bare for each in (figure_of_row(run), *beside)),
        f"{run['params_final'] or run['params_host']:,}",
        "-" if germinated is None else f"{run['seeds_fossilized']}/{germinated}",
        _began(run["started_at"], datetime.now(UTC)),
    )


def _began(at: datetime, now: datetime) -> str:
    """When a run began: of one of an earlier year, the year in the place of the time."""
    return f"{at:%d %b %H:%M}" if at.year == now.year else f"{at:%d %b %Y}"


def _task(run: dict[str, Any]) -> str:
    """What a run is trained on, with the file of a person's own; of a fork also what it left, where, and why."""
    task = str(run["task"])
    if run["task_file"]:
        task += f" ({run['task_file']})"
    if run["parent_run_id"]:
        task += f", fork of {run['parent_run_id']} at step {run['fork_step']}: {run['fork_change'] or 'nothing'}"
    return task


def _status(run: dict[str, Any], now: datetime) -> str:
    """How a run is, and why where it failed; of one that died or whose process is elsewhere when it was last heard.

    Of one that was submitted, its worker has the word until it is over. Whether its trainer lives can be looked up on
    the machine where it runs, or ran. Of another machine's run it can only be said when it was heard last.
    """
    ago, work = now - run["last_at"].replace(tzinfo=UTC), run["work"]
    if work is not None and run["status"] not in {"completed", "failed", "stopped"}:
        return str(work["told"])
    if run["status"] == "died":
        return f"died, last heard {_ago(ago)} ago"
    if run["status"] == "running" and run["paused"]:
        return "paused"
    if run["status"] == "running":
        silent = not run["trainer_lives"] and ago > SILENT_AFTER
        return f"last heard {_ago(ago)} ago" if silent else "running"
    why = str(run["reason"] or "") if run["status"] in TROUBLED else ""
    return f"{run['status']}: {why[:LONGEST_REASON]}" if why else str(run["status"])


def _ago(since: timedelta) -> str:
    """A time that has passed, in its largest unit: `40 s`, `5 min`, `3 h`, `12 days`."""
    seconds = max(0, round(since.total_seconds()))
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
