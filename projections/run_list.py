"""The runs of a history that somebody asks for: the newest of a task, with a status, since a time; and those asked for.

A control or static run belongs to the run that it stands beside: it is found with that one, and never by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from esper.leyline import envelope
from esper.leyline.json_text import configuration
from esper.record.work import Asked, Work
from projections import views
from projections.run_queries import claims_of

if TYPE_CHECKING:
    from esper.leyline.envelope import Event
    from projections.history import History

RUNNING: Final = "running"
DIED: Final = "died"
"""No status of the view: a run whose trainer said nothing more and is gone. Only its machine knows."""
BATCH: Final = 500
"""Rows that are objects at once."""
_UNENDED: Final = (
    "(run_id not in (select run_id from log.run_finished) or run_id in (select run_id from log.run_resumed))"
)
"""Runs that may go on: of a hundred thousand the view would read and fold every one to say which."""
_TASK_FILE: Final = r"""regexp_extract(config_json, '"task": "([^"\\]*\.py:[^"\\]*)"', 1)"""
_STATIC_OF: Final = r"""regexp_extract(config_json, '"static_of": "([^"\\]*)"', 1)"""


@dataclass(frozen=True, slots=True)
class Sought:
    """What runs are to be like; empty fields ask for nothing. `task` is a name or a person's own file; `most` newest.

    `since` is a time of UTC. `statuses` are those of the view `runs`, `died`, and those of requests that wait.
    """

    task: str = ""
    statuses: frozenset[str] = frozenset()
    since: datetime | None = None
    most: int | None = None

    def cut(self, ids: list[str]) -> tuple[list[str], int]:
        """The first so many of them, and how many are left out."""
        kept = ids if self.most is None else ids[: self.most]
        return kept, len(ids) - len(kept)


def found_runs(
    history: History, sought: Sought, lives: Callable[[Event], bool | None]
) -> tuple[Iterator[dict[str, Any]], int]:
    """The rows of the view `runs` of the runs that are sought and of those beside them, and how many were left out.

    The latest run comes first. A row has `trainer_lives` and, where its trainer is gone, the status `died`, as `lives`
    says of its claim. Rows are made a few hundred at a time.
    """
    ids, left_out = sought.cut(_run_ids(history, sought, lives))
    if sought == Sought(most=sought.most) and not left_out:
        return _rows(history, "from runs order by started_at desc", {}, lives), 0
    if not ids:
        return iter(()), left_out
    query = (
        f"select run_id from log.run_started where list_contains($ids, control_of) or list_contains($ids, {_STATIC_OF})"  # noqa: S608
    )
    beside = [run_id for (run_id,) in history.cursor(query, {"ids": ids}).fetchall()]
    query = f"from ({views.runs_of()}) order by started_at desc"
    return _rows(history, query, {"ids": [*ids, *beside]}, lives), left_out


def _run_ids(history: History, sought: Sought, lives: Callable[[Event], bool | None]) -> list[str]:
    """The ids of runs that stand by themselves, the latest first."""
    wanted = sought.statuses | ({RUNNING} if DIED in sought.statuses else frozenset())
    only_running = wanted == {RUNNING}
    of_status = [] if not wanted or only_running else [list(wanted)]
    own = f"coalesce(nullif(control_of, ''), nullif({_STATIC_OF}, ''), run_id)"
    alone = f"{own} = run_id or {own} not in (select run_id from log.run_started)"  # noqa: S608  names of ours
    conditions = [f"({alone})", *([_UNENDED] if only_running else [])]
    parameters: list[Any] = []
    for condition, value in (
        (f"(task = ? or {_TASK_FILE} = ?)", [sought.task] * 2 if sought.task else []),
        ("moment(recorded_at_ns) >= ?", [sought.since] if sought.since else []),
        ("run_id in (select run_id from runs where list_contains(?, status))", of_status),
    ):
        if value:
            conditions.append(condition)
            parameters += value
    query = (
        "select run_id from (select distinct on (run_id) * from log.run_started order by log_offset) "  # noqa: S608
        f"where {' and '.join(conditions)} order by recorded_at_ns desc"
    )
    ids = [run_id for (run_id,) in history.execute(query, parameters).fetchall()]
    both = {RUNNING, DIED} <= sought.statuses
    if not ids or RUNNING not in wanted or (both and not only_running):
        return ids
    query = f"select run_id from ({views.runs_of()}) where status = 'running'"  # noqa: S608  of ours
    running = {run_id for (run_id,) in history.cursor(query, {"ids": ids}).fetchall()}
    out = set(ids) - running if only_running else set()
    if not both:
        dead = {run_id for run_id, claim in claims_of(history, list(running)).items() if lives(claim) is False}
        out |= dead if RUNNING in sought.statuses else running - dead
    return [run_id for run_id in ids if run_id not in out]


def _rows(
    history: History, query: str, parameters: dict[str, Any], lives: Callable[[Event], bool | None]
) -> Iterator[dict[str, Any]]:
    answer = history.cursor(query, parameters)
    names = [column[0] for column in answer.description or ()]
    while found := answer.fetchmany(BATCH):
        rows = [dict(zip(names, row, strict=True)) for row in found]
        running = [row["run_id"] for row in rows if row["status"] == RUNNING]
        claims = claims_of(history, running) if running else {}
        for row in rows:
            claim = claims.get(row["run_id"])
            row["trainer_lives"] = None if claim is None else lives(claim)
            if row["trainer_lives"] is False:
                row["status"] = DIED  # it says nothing any more, so the history has it running for ever
        yield from rows


def all_work(history: History, of: Collection[str] | None = None) -> list[Asked]:
    """Every run that was asked for, or those `of` some ids, in the order of asking, as the workers' own fold has it."""
    if not history.manifest.of("run_requested"):
        return []
    which = "" if of is None else "where list_contains($1, run_id)"
    said = " union all ".join(
        f"select log_partition, log_offset, log_raw from log.{name} {which}"  # noqa: S608  names of ours
        for name in ("run_requested", "run_taken", "run_released")
    )
    work = Work()
    answer = history.cursor(f"from ({said}) order by all", [] if of is None else [list(of)])
    while found := answer.fetchmany(BATCH):
        for partition, offset, raw in found:
            work.apply(envelope.parse(raw), (partition, offset), 0.0)
    return sorted(work.runs.values(), key=lambda run: (run.requested_at_ns, run.place))


def waiting(history: History, sought: Sought) -> tuple[list[Asked], int]:
    """Those of the runs that are sought which were asked for and have not begun, the latest first; and how many more.

    A fork that waits has no task of its own yet, so none is found by one.
    """
    if not history.manifest.of("run_requested"):
        return [], 0
    query = (
        "select run_id from log.run_requested where run_id not in (select run_id from log.run_started) "
        "and ($1 is null or moment(recorded_at_ns) >= $1) "
        "group by run_id order by min(recorded_at_ns) desc, min(place) desc"
    )
    ids = [run_id for (run_id,) in history.execute(query, [sought.since]).fetchall()]
    if not sought.task and not sought.statuses:
        ids, left_out = sought.cut(ids)
        return list(reversed(all_work(history, ids))), left_out
    found = {run.run_id: run for run in reversed(all_work(history, ids)) if _is_like(run, sought)}
    ids, left_out = sought.cut(list(found))
    return [found[run_id] for run_id in ids], left_out


def _is_like(run: Asked, sought: Sought) -> bool:
    config = run.body.config_json
    of_task = not sought.task or (config and configuration(config).get("task") == sought.task)
    return bool(of_task) and (not sought.statuses or run.status in sought.statuses)
