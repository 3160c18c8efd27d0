"""The state of a run at a place by the SQL of the fold, as `esper.record` has it: seconds for 100,000 epochs.

The two folds are held equal by tests. Python's follows a fork into its ancestors and says what cannot be true of a
history that stops, so it is asked for those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from esper.leyline import envelope
from esper.leyline.envelope import Event
from esper.record import Mark, ModelState, Rate, RunState, SeedState
from esper.record.model_state import Saved
from esper.record.run_status import RunStatus
from projections.run_queries import rows
from projections.views import read_sql

if TYPE_CHECKING:
    from projections.history import History

Unit: TypeAlias = Literal["step", "epoch"]
_NOW = 2**62


def can_fold(history: History, run_id: str) -> bool:
    """Whether the SQL says all there is to say of a run: it is no fork, and its history does not stop."""
    query = (
        "SELECT (SELECT bool_or(parent_run_id = '') FROM log.run_started WHERE run_id = $run AND log_verdict = 1) "
        "AND NOT EXISTS (FROM stops WHERE run_id = $run)"
    )
    return bool(history.execute(query, {"run": run_id}).fetchone() == (True,))


def run_now(history: History, run_id: str) -> RunState:
    """The run as it is now, without the way there and without its seeds; for a run of `can_fold`."""
    (begun,) = rows(
        history,
        "SELECT any_value(task) AS task, any_value(policy) AS policy, (SELECT max(incarnation) FROM ("
        "SELECT incarnation FROM log.run_resumed WHERE run_id = $run AND log_verdict = 1 "
        "UNION ALL SELECT incarnation FROM log.run_started WHERE run_id = $run AND log_verdict = 1)) AS incarnation "
        "FROM log.run_started WHERE run_id = $run AND log_verdict = 1",
        {"run": run_id},
    )
    mark = _mark(history, run_id, "step", _NOW, with_seeds=False)
    return RunState(run_id, begun["task"], begun["policy"], begun["incarnation"], mark)


def mark_at(history: History, run_id: str, unit: Unit, number: int) -> Mark | None:
    """The last fact before more than `number` steps or epochs, on the surviving timeline; None where there is none."""
    return _mark(history, run_id, unit, number, with_seeds=True)


def mark_now(history: History, run_id: str) -> Mark | None:
    """The newest fact of the surviving timeline."""
    return _mark(history, run_id, "step", _NOW, with_seeds=True)


def decision_before(history: History, run_id: str, mark: Mark) -> Event | None:
    """The decision on the last packet up to `mark` that any decision answers."""
    query = """
        SELECT decision.log_raw
        FROM log.epoch_completed AS packet
        JOIN log.decision_made AS decision ON decision.packet_id = packet.event_id AND decision.run_id = packet.run_id
        WHERE packet.run_id = $run AND packet.sequence <= $sequence AND packet.log_verdict = 1
            AND survives(packet.run_id, packet.log_offset, packet.sequence)
        ORDER BY packet.sequence DESC, decision.log_offset
        LIMIT 1
    """
    found = history.execute(query, {"run": run_id, "sequence": mark.sequence}).fetchone()
    return None if found is None else envelope.parse(found[0])


def _mark(history: History, run_id: str, unit: Unit, number: int, *, with_seeds: bool) -> Mark | None:
    parameters = {"run": run_id, "at": number}
    found = rows(history, _of_one_run("fold_state_at", unit), parameters)
    if not found:
        return None
    (then,) = found
    seeds = rows(history, _of_one_run("fold_seeds_at", unit), parameters) if with_seeds else []
    return Mark(then["sequence"], "", _model(then, seeds), _status(then), None)


def _of_one_run(name: str, unit: Unit) -> str:
    """The SQL of a fold, of one run and at a step or an epoch: its facts are chosen before anything is made of them."""
    text = read_sql(name).replace("step <= at_step", f"{unit} <= $at")
    return text.replace("FROM accepted_facts", "FROM (FROM accepted_facts WHERE run_id = $run)")


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
