"""What the report tells of a run, asked from a history: plain rows and figures, ready to be shown."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esper.errors import InvalidInput
from esper.leyline.json_text import configuration
from projections.history import History

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """One run: `run`, `start` and `end` are rows of `runs`, `log.run_started` and `log.run_finished`."""

    run: Row
    start: Row
    end: Row | None
    control: Row | None
    control_end: Row | None
    seeds: Sequence[Row]
    decisions: Sequence[Row]
    gates: Sequence[Row]
    commands: Sequence[Row]
    reports: Sequence[Row]
    rollbacks: Sequence[Row]
    alerts: Sequence[Row]
    events: Sequence[Row]
    parent: str | None

    @property
    def runs(self) -> dict[str, str]:
        """The curves' names and runs: beside its control run, or a fork beside its parent."""
        run_id = str(self.run["run_id"])
        if self.control:
            return {"grown": run_id, "control": str(self.control["run_id"])}
        return {"fork": run_id, "parent": self.parent} if self.parent else {"run": run_id}

    @property
    def config(self) -> dict[str, Any]:
        """The complete configuration."""
        return configuration(self.run["config_json"])

    @property
    def command(self) -> str:
        """The command line that begins such a run again."""
        config = self.config
        if self.parent:
            at, change = str(self.start["global_step"]), str(self.start["fork_change"] or "nothing")
            return shlex.join(["esper", "fork", self.parent, "--at", at, "--do", change])
        words = ["esper", "run", "--task", str(self.run["task"]), "--epochs", str(self.run["epochs_planned"])]
        words += ["--seed", str(config.get("seed", 0)), "--policy", str(self.run["policy"])]
        words += [] if self.run["lifecycle"] == "full" else ["--lifecycle", str(self.run["lifecycle"])]
        words += [] if self.run["device"] == "cpu" else ["--device", str(self.run["device"])]
        return shlex.join(words + ([] if self.control else ["--no-control"]))


def report_query(history: History, run_id: str) -> Report:
    """Everything about a run; raises InvalidInput where the history does not have its start."""
    mine = {"run": run_id}
    runs = rows(history, "from runs where run_id = $run", mine)
    if not runs:
        raise InvalidInput(f"the history has events of run {run_id} and not its start, so there is nothing to report")
    control = _first(rows(history, "from runs where control_of = $run order by started_at desc limit 1", mine))
    chains = {"run": run_id, "control": control["run_id"] if control else ""}
    return Report(
        run=runs[0],
        start=rows(history, "from log.run_started where run_id = $run order by log_offset limit 1", mine)[0],
        end=_ended(history, run_id),
        control=control,
        control_end=_ended(history, chains["control"]),
        seeds=rows(history, "from seeds where run_id = $run order by length(seed_id), seed_id", mine),
        decisions=rows(history, _DECISIONS, mine),
        gates=rows(history, "from gates where run_id = $run and surviving order by sequence", mine),
        commands=rows(history, "from commands where run_id = $run order by recorded_at", mine),
        reports=rows(history, "from reports where run_id = $run order by recorded_at", mine),
        rollbacks=rows(history, "from log.rolled_back where run_id = $run order by log_offset", mine),
        alerts=rows(history, _ALERTS, mine),
        events=rows(history, _EVENTS, chains),
        parent=runs[0]["parent_run_id"],
    )


def rows(history: History, query: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answer as one dictionary a row."""
    answer = history.execute(query, dict(parameters))
    names = [column[0] for column in answer.description]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def _first(found: Sequence[Row]) -> Row | None:
    return found[0] if found else None


def _ended(history: History, run_id: str) -> Row | None:
    ends = "from log.run_finished where run_id = $run order by log_offset desc limit 1"
    return _first(rows(history, ends, {"run": run_id}))


_DECISIONS = """
SELECT decision.epoch, decision.chosen, decision.reason, decision.risk, command.outcome, command.rejected_reason
FROM decisions AS decision
LEFT JOIN commands AS command ON command.run_id = decision.run_id AND command.causation_id = decision.event_id
WHERE decision.run_id = $run ORDER BY decision.log_offset
"""
_ALERTS = """
SELECT rule, description, count(*) AS fired, min(epoch) AS first_epoch, max(epoch) AS last_epoch
FROM log.alert_fired WHERE run_id = $run GROUP BY ALL ORDER BY fired DESC, rule
"""
_EVENTS = """
SELECT body, count(*) FILTER (run_id = $run) AS mine, count(*) FILTER (run_id = $control) AS control
FROM events WHERE run_id IN ($run, $control) GROUP BY body ORDER BY mine DESC, body
"""
