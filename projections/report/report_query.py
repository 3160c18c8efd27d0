"""What the report tells of a run, asked from a history: plain rows and figures, ready to be shown."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from esper.errors import InvalidInput
from esper.leyline.json_text import configuration
from projections.history import History

Row = Mapping[str, Any]
SHOWN: Final = 1_000
"""Rows of a table on the page. Of a longer one the first and the last ones are shown: nobody reads on from there, and a
page of 100,000 rows opens in no browser."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A table of the page: its rows, the middle ones left out where it is long, and how many there are in all."""

    rows: Sequence[Row]
    total: int

    @property
    def left_out(self) -> int:
        """How many are not shown."""
        return self.total - len(self.rows)


@dataclass(frozen=True, slots=True)
class Report:
    """One run: `run`, `start` and `end` are rows of `runs`, `log.run_started` and `log.run_finished`.

    Only what survives is listed: `decided` are the decisions to do something, `idle` the others.
    """

    run: Row
    start: Row
    end: Row | None
    control: Row | None
    control_end: Row | None
    static: Row | None
    seeds: Sequence[Row]
    decided: Listed
    idle: Listed
    gates: Listed
    commands: Listed
    rollbacks: Listed
    alerts: Sequence[Row]
    events: Sequence[Row]
    parent: str | None
    alike: Sequence[Row]
    """Rows of `gains`: the completed runs with these settings, this one included, one for each random seed."""

    @property
    def runs(self) -> dict[str, str]:
        """The curves' names and runs: beside its control run, or a fork beside its parent."""
        run_id = str(self.run["run_id"])
        if self.control or self.static:
            beside = {"control": self.control, "static": self.static}
            return {"grown": run_id, **{name: str(run["run_id"]) for name, run in beside.items() if run}}
        return {"fork": run_id, "parent": self.parent} if self.parent else {"run": run_id}

    @property
    def config(self) -> dict[str, Any]:
        """The complete configuration."""
        return configuration(self.run["config_json"])

    @property
    def command(self) -> str:
        """The command line that begins such a run again: of a script that script's, of an own task with its file."""
        config = self.config
        script = self.start.get("script") or {}
        if script.get("path"):
            return shlex.join(["python", script["path"], *(script.get("arguments") or ())])
        if self.parent:
            at, change = str(self.start["global_step"]), str(self.start["fork_change"] or "nothing")
            return shlex.join(["esper", "fork", self.parent, "--at", at, "--do", change])
        task = str(config.get("task") or self.run["task"])
        words = ["esper", "run", "--task", task, "--epochs", str(self.run["epochs_planned"])]
        words += ["--seed", str(config.get("seed", 0)), "--policy", str(self.run["policy"])]
        words += (
            []
            if (self.run["lifecycle"] or "full") in ("full", "careful")
            else ["--lifecycle", str(self.run["lifecycle"])]
        )
        rate_policy = str(config.get("rate_policy") or "cosine")
        words += [] if rate_policy == "cosine" else ["--rate-policy", rate_policy]
        words += [] if self.run["device"] == "cpu" else ["--device", str(self.run["device"])]
        return shlex.join([*words, *_settings_of(config), *([] if self.control else ["--no-control"])])


def report_query(history: History, run_id: str) -> Report:
    """Everything about a run; raises InvalidInput where the history does not have its start."""
    mine = {"run": run_id}
    told = brief_query(history, run_id)
    chains = {"run": run_id, "control": told.control["run_id"] if told.control else ""}
    return replace(
        told,
        end=_ended(history, run_id),
        control_end=_ended(history, chains["control"]),
        seeds=rows(history, "from seeds where run_id = $run order by length(seed_id), seed_id", mine),
        gates=_listed(history, _GATES, "sequence", mine),
        commands=_listed(history, _COMMANDS, "recorded_at, log_offset", mine),
        rollbacks=_listed(history, _ROLLBACKS, "log_offset", mine),
        alerts=rows(history, _ALERTS, mine),
        events=rows(history, _EVENTS, chains),
        alike=_alike(history, told.run),
    )


def brief_query(history: History, run_id: str) -> Report:
    """What a run comes to and what was decided, for whoever looks again every second: the other tables are empty.

    Raises InvalidInput where the history does not have its start.
    """
    mine = {"run": run_id}
    found = rows(history, "from runs where $run in (run_id, control_of, static_of) order by started_at desc", mine)
    run = next((row for row in found if row["run_id"] == run_id), None)
    if run is None:
        raise InvalidInput(f"the history has events of run {run_id} and not its start, so there is nothing to report")
    nothing = Listed((), 0)
    return Report(
        run=run,
        start=rows(history, "from log.run_started where run_id = $run order by log_offset limit 1", mine)[0],
        end=None,
        control=next((row for row in found if row["control_of"] == run_id), None),
        control_end=None,
        static=next((row for row in found if row["static_of"] == run_id), None),
        seeds=(),
        decided=_listed(history, f"{_DECISIONS} AND decision.chosen <> 'nothing'", "log_offset", mine),
        idle=_listed(history, _IDLE, "log_offset", mine),
        gates=nothing,
        commands=nothing,
        rollbacks=nothing,
        alerts=(),
        events=(),
        parent=run["parent_run_id"],
        alike=(),
    )


def _alike(history: History, run: Row) -> list[Row]:
    """The rows of `gains` of runs that were asked for as this one was, but for the random seed; the latest of each."""
    if run["status"] != "completed" or run["control_of"] or run["static_of"] or run["parent_run_id"]:
        return []
    others = rows(history, _SAME_TASK, {name: run[name] for name in ("task", "policy", "lifecycle", "epochs_planned")})
    mine = _settings(run)
    found = {row["random_seed"]: row for row in others if _settings(row) == mine and row["run_id"] != run["run_id"]}
    found |= {row["random_seed"]: row for row in others if row["run_id"] == run["run_id"]}
    return list(found.values())


def _settings_of(config: Mapping[str, Any]) -> list[str]:
    """The options for what was asked for beyond the defaults."""
    from esper.tolaria.settings_text import beyond_defaults  # noqa: PLC0415 - pydantic, which only a report needs

    return [word for pair in beyond_defaults(config) for word in ("--set", pair)]


def _settings(run: Row) -> dict[str, Any]:
    """The configuration without what differs from seed to seed: the history that a run knew is no setting of it."""
    return {name: value for name, value in configuration(run["config_json"]).items() if name not in {"seed", "dossier"}}


def rows(history: History, query: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answer as one dictionary a row."""
    answer = history.execute(query, dict(parameters))
    names = [column[0] for column in answer.description]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def _listed(history: History, query: str, order: str, parameters: Mapping[str, Any]) -> Listed:
    """The rows that `query` gives, ordered, as the page lists them; only those come out of DuckDB."""
    half = SHOWN // 2
    placed = f"SELECT *, row_number() OVER (ORDER BY {order}) AS place, count(*) OVER () AS total FROM ({query})"  # noqa: S608  queries of ours
    shown = f"FROM ({placed}) WHERE place <= {half} OR place > total - {half} ORDER BY place"
    found = rows(history, shown, parameters)
    return Listed(found, found[0]["total"] if found else 0)


def _ended(history: History, run_id: str) -> Row | None:
    ends = (
        "from log.run_finished as fact where run_id = $run and log_verdict = 1 "
        "and survives(fact.run_id, fact.log_offset, fact.sequence) order by log_offset desc limit 1"
    )
    return next(iter(rows(history, ends, {"run": run_id})), None)


_DECISIONS = """
SELECT decision.log_offset, decision.epoch, decision.chosen, decision.reason, decision.risk, command.outcome,
    command.rejected_reason
FROM decisions AS decision
LEFT JOIN (FROM commands WHERE run_id = $run AND surviving) AS command ON command.causation_id = decision.event_id
WHERE decision.run_id = $run AND decision.surviving
"""
_SAME_TASK = """
SELECT gains.*, runs.config_json
FROM gains JOIN runs ON runs.run_id = gains.run_id
WHERE runs.task = $task AND runs.policy = $policy AND runs.lifecycle = $lifecycle
    AND runs.epochs_planned = $epochs_planned AND runs.parent_run_id IS NULL
ORDER BY gains.started_at
"""
_IDLE = """
SELECT log_offset, epoch, reason FROM decisions WHERE run_id = $run AND surviving AND chosen = 'nothing'
"""
_GATES = """
SELECT sequence, epoch, seed_id, gate, passed, reason, measurements FROM gates WHERE run_id = $run AND surviving
"""
_COMMANDS = """
SELECT command.recorded_at, command.log_offset, command.epoch, command.command_type, command.operation, command.seed_id,
    command.blueprint_id, command.issued_by, command.outcome, command.rejected_detail,
    coalesce(report.reports, []) AS reports
FROM commands AS command
LEFT JOIN (
    SELECT command_id, list({
        'outcome': outcome, 'metrics': metrics, 'observation_window_epochs': observation_window_epochs
    } ORDER BY recorded_at) AS reports
    FROM reports
    WHERE run_id = $run AND surviving
    GROUP BY command_id
) AS report USING (command_id)
WHERE command.run_id = $run AND command.surviving
"""
_ROLLBACKS = """
SELECT log_offset, from_step, to_step, level, reason, new_timeline, prepare_ms, commit_ms, confirm_ms
FROM log.rolled_back AS fact
WHERE run_id = $run AND log_verdict = 1 AND NOT EXISTS (
    FROM cuts
    WHERE cuts.run_id = fact.run_id AND is_claim AND cuts.log_offset > fact.log_offset
        AND cuts.to_sequence < fact.sequence
)
"""
"""Those that happened: what a resume cut is as if it had not."""
_ALERTS = """
SELECT rule, description, count(*) AS fired, min(epoch) AS first_epoch, max(epoch) AS last_epoch
FROM log.alert_fired AS alert
WHERE run_id = $run AND stands(alert.run_id, alert.causation_id, alert.correlation_id)
GROUP BY ALL ORDER BY fired DESC, rule
"""
_EVENTS = """
SELECT body, count(*) FILTER (run_id = $run) AS mine, count(*) FILTER (run_id = $control) AS control
FROM events WHERE run_id IN ($run, $control) GROUP BY body ORDER BY mine DESC, body
"""
