"""The state of a run at a place by the SQL of the fold, as `esper.record` has it: seconds for 100,000 epochs.

A fork's facts are those of its ancestors, as far as it shares them, and then its own: all as if they were one run's.
The two folds are held equal by tests. Python's says in words what cannot be true of a history that stops, so it is
asked for those.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from contracts.topics import RUNS
from esper.leyline import envelope
from esper.leyline.envelope import Event
from esper.metric import figures_of_rows
from esper.record import Mark, ModelState, Rate, RunState, SeedState
from esper.record.model_state import Saved
from esper.record.run_status import RunStatus
from projections.lineage import Stretch, lineage
from projections.run_queries import rows
from projections.views import read_sql

if TYPE_CHECKING:
    from projections.history import History

Unit: TypeAlias = Literal["step", "epoch"]
_NOW: Final = 2**62
_APART: Final = 2**40
"""Added to the offsets of each stretch after the first, so that they follow those of the one before."""
_MADE: Final = ("cuts", "accepted_facts", "seed_slots", "seed_figures")
"""What the fold reads that is made of facts, in the order of making."""
_SURVIVES: Final = re.compile(r"survives\(([^,]+), ([^,]+), ([^)]+)\)")


@dataclass(frozen=True, slots=True)
class Line:
    """A run's facts, its ancestors' before its own: `stretches` are the oldest ancestor's first."""

    run_id: str
    stretches: Sequence[Stretch]
    parameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, history: History, run_id: str) -> Line | None:
        """The line of a run; None where SQL does not say all of it: an ancestor is missing, or the history stops."""
        stretches = lineage(history, run_id)
        for stretch in stretches:
            query = "FROM stops WHERE run_id = $run AND log_offset <= $upto"
            if history.execute(query, {"run": stretch.run_id, "upto": stretch.upto}).fetchone() is not None:
                return None
        query = "SELECT parent_run_id FROM log.run_started WHERE run_id = ? AND log_verdict = 1 LIMIT 1"
        if history.execute(query, [stretches[0].run_id]).fetchone() != ("",):
            return None
        parameters: dict[str, Any] = {"run": run_id}
        for place, stretch in enumerate(stretches):
            parameters |= {f"run_{place}": stretch.run_id, f"upto_{place}": stretch.upto}
        return cls(run_id, stretches, parameters)

    def asked(self, name: str, unit: Unit) -> str:
        """The SQL of a fold of the line at a step or an epoch, `$at`; other parameters are `parameters`."""
        return _of_line(name, unit, len(self.stretches))


@cache
def _of_line(name: str, unit: Unit, count: int) -> str:
    fold = read_sql(name).replace("step <= at_step", f"{unit} <= $at")
    texts = {made: _without_what_forks_find(read_sql(made)) for made in _MADE}
    named = set(re.findall(r"\blog\.(\w+)", "".join([fold, *texts.values()])))
    read = [body for body in ("facts", *RUNS.bodies) if body in named]
    parts = [f"line_{body} AS NOT MATERIALIZED (\n{_stretches(body, count)}\n)" for body in read]
    parts += [f"line_{made} AS MATERIALIZED (\n{_read_from_line(text)}\n)" for made, text in texts.items()]
    return f"WITH {', '.join(parts)}\nFROM (\n{_read_from_line(fold)}\n) WHERE run_id = $run"


def _without_what_forks_find(text: str) -> str:
    """The SQL without the parts that say how a fork found its seeds: here its ancestors' facts say it themselves."""
    parts = re.sub(r"(?m)^--.*\n", "", text).split("UNION ALL BY NAME\n")
    return "UNION ALL BY NAME\n".join(part for part in parts if "inherited" not in part and "decided." not in part)


def _stretches(body: str, count: int) -> str:
    """A table's rows of all stretches, as rows of the run."""
    return "\nUNION ALL\n".join(
        f"SELECT * REPLACE ($run AS run_id, log_offset + {place * _APART} AS log_offset) "  # noqa: S608  names of ours
        f'FROM log."{body}" WHERE run_id = $run_{place} AND log_offset <= $upto_{place}'
        for place in range(count)
    )


def _read_from_line(text: str) -> str:
    """The SQL over the line in the place of the log."""
    looked = "NOT EXISTS (FROM cuts AS cut WHERE cut.run_id = {} AND cut.log_offset > {} AND cut.to_sequence < {})"
    text = _SURVIVES.sub(lambda match: looked.format(*match.groups()), text)
    text = re.sub(r"\blog\.(\w+)", r"line_\1", text)
    return re.sub(rf"\b(FROM|JOIN) ({'|'.join(_MADE)})\b", r"\1 line_\2", text)


def run_now(history: History, line: Line) -> RunState:
    """The run as it is now, without the way there and without its seeds."""
    query = """
        SELECT task, policy, (
            SELECT max(incarnation)
            FROM (
                SELECT incarnation FROM log.run_resumed WHERE run_id = $run AND log_verdict = 1
                UNION ALL SELECT incarnation FROM log.run_started WHERE run_id = $run AND log_verdict = 1
            )
        ) AS incarnation
        FROM log.run_started
        WHERE run_id = $run AND log_verdict = 1
    """
    begun = rows(history, query, {"run": line.run_id})[0]
    mark = _mark(history, line, "step", _NOW, with_seeds=False)
    return RunState(line.run_id, begun["task"], begun["policy"], begun["incarnation"], mark)


def mark_at(history: History, line: Line, unit: Unit, number: int) -> Mark | None:
    """The last fact before more than `number` steps or epochs, on the surviving timeline; None where there is none."""
    return _mark(history, line, unit, number, with_seeds=True)


def mark_now(history: History, line: Line) -> Mark | None:
    """The newest fact of the surviving timeline."""
    return _mark(history, line, "step", _NOW, with_seeds=True)


def decision_before(history: History, line: Line, mark: Mark) -> Event | None:
    """The decision on the last packet up to `mark` that any decision answers."""
    query = _decision_of_line(len(line.stretches))
    runs = [stretch.run_id for stretch in line.stretches]
    found = history.execute(query, line.parameters | {"sequence": mark.sequence, "runs": runs}).fetchone()
    return None if found is None else envelope.parse(found[0])


@cache
def _decision_of_line(count: int) -> str:
    parts = [f"line_{body} AS (\n{_stretches(body, count)}\n)" for body in ("rolled_back", "run_resumed")]
    parts += [f"line_cuts AS (\n{_read_from_line(read_sql('cuts'))}\n)"]
    survives = _read_from_line("survives(packet.run_id, packet.log_offset, packet.sequence)")
    return f"""
        WITH {", ".join(parts)}
        SELECT decision.log_raw
        FROM ({_stretches("epoch_completed", count)}) AS packet
        JOIN log.decision_made AS decision ON decision.packet_id = packet.event_id
        WHERE packet.sequence <= $sequence AND packet.log_verdict = 1 AND {survives}
            AND list_contains($runs, decision.run_id)
        ORDER BY packet.sequence DESC, decision.log_offset
        LIMIT 1
    """  # noqa: S608  names of ours


def _mark(history: History, line: Line, unit: Unit, number: int, *, with_seeds: bool) -> Mark | None:
    parameters = line.parameters | {"at": number}
    found = rows(history, line.asked("fold_state_at", unit), parameters)
    if not found:
        return None
    then = found[0]  # one for each first fact of the line, and all the same
    seeds = rows(history, line.asked("fold_seeds_at", unit), parameters) if with_seeds else []
    return Mark(then["sequence"], "", _model(then, seeds), _status(then), None)


def _model(then: dict[str, Any], seeds: list[dict[str, Any]]) -> ModelState:
    by_id = {
        seed["seed_id"]: SeedState(
            **{name: value for name, value in seed.items() if name != "run_id"}, moved=seed["since_sequence"] > 0
        )
        for seed in sorted(seeds, key=lambda seed: (len(seed["seed_id"]), seed["seed_id"]))
    }
    saved = then["checkpoint"]
    return ModelState(
        step=then["step"],
        epoch=then["epoch"],
        seeds=by_id,
        learning_rates={group: Rate(**rate) for group, rate in then["learning_rates"].items()},
        params=then["params"],
        probe_loss=then["probe_loss"],
        probe_accuracy=then["probe_accuracy"],
        windows={window["command_id"]: window["seed_id"] for window in then["windows"]},
        checkpoint=None if saved is None else Saved(**saved),
        metrics=tuple(figures_of_rows(then["metrics"], then["probe_accuracy"])),
    )


def _status(then: dict[str, Any]) -> RunStatus:
    return RunStatus(
        status=then["status"],
        reason=then["reason"],
        timeline=then["timeline"],
        breakers=then["breakers"],
        conservative=then["conservative"],
        checkpoints=then["checkpoints"],
        last_decision_id=then["last_decision_id"] or b"",
        last_command_id=then["last_command_id"] or b"",
    )
