"""What the page shows, out of a history: the same queries and folds as `esper runs`, `state`, `events` and `report`."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from contracts.topics import TELEMETRY
from esper.cli.events import CHATTER, breaker_state, headline, stage, types_of
from esper.cli.history import find_run
from esper.cli.runs import runs_now
from esper.cli.state import place_of, state_json
from esper.karn.table import with_names
from esper.leyline.envelope import Event, body_name
from esper.leyline.ids import text
from esper.metric import figure_of_row
from esper.record import Mark
from projections import folded
from projections.alert_queries import alerts, slos
from projections.pictures import of_run
from projections.pictures.svg import Picture
from projections.report.page import tiles, verdict
from projections.report.report_query import brief_query
from projections.run_queries import EventReader

if TYPE_CHECKING:
    from projections.history import History

RUNS_SHOWN: Final = 60
"""The newest so many, with the runs beside them; those that go on are shown besides."""
ALERTS_SHOWN: Final = 50
FOLDED: Final = 8
"""Runs that go on whose breakers and mode stand in the overview; of each other one they stand on its own view."""
KEPT_STATES: Final = ("state_digested", "checkpoint_saved", "checkpoint_pruned")
"""What a run writes about its own keeping, several times an epoch: `esper events` lists it."""
ROWS_SHOWN: Final = 60
EVENTS_SHOWN: Final = 120
FOLLOWED: Final = 8
"""Runs whose events are followed at a time; that of a run that nobody has asked about for longest is given up."""
NARROWEST, WIDEST, WIDTH_STEP = 300, 1_200, 20
NOTHING: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("runs", "waiting", "alerts", "breakers", "budgets"), ()),
    **dict.fromkeys(("runs_left_out", "alert_count"), 0),
    "conservative_mode": False,
    "generation": -1,
}
"""The overview of a data folder that has no history yet."""
_RUN: Final = (
    *("run_id", "status", "paused", "task", "policy", "lifecycle", "epochs_done", "epochs_planned", "steps_done"),
    *("probe_loss", "params_host", "params_final", "control_of", "static_of", "parent_run_id", "fork_step"),
    *("seeds_germinated", "seeds_fossilized", "reason", "started_at", "last_at", "trainer_lives", "wall_s"),
)


def overview(history: History) -> dict[str, Any]:
    """The newest runs, what waits to be one, the alerts, and of runs that go on their breakers, mode and seeds."""
    waiting, found, older = runs_now(history, RUNS_SHOWN)
    fired = alerts(history)
    states = _states(history, [run["run_id"] for run in found if run["status"] == "running"][:FOLDED])
    return {
        "runs": [_run(run, states.get(run["run_id"])) for run in found],
        "runs_left_out": older,
        "waiting": waiting,
        "alerts": [_alert(each) for each in fired[:ALERTS_SHOWN]],
        "alert_count": sum(each["cleared_at"] is None for each in fired),
        "breakers": [
            {"run_id": run_id, "breaker": name, "state": breaker_state(number)}
            for run_id, mark in states.items()
            for name, number in mark.run_status.breakers.items()
        ],
        "conservative_mode": any(mark.run_status.conservative for mark in states.values()),
        "generation": history.manifest.generation,
    }


def budgets_view(history: History) -> dict[str, Any]:
    """The objectives of which anything was asked, with what is left of their error budgets and how fast they burn."""
    return {"budgets": [each for each in slos(history) if each["asked"]]}


def _states(history: History, runs: Sequence[str]) -> dict[str, Mark]:
    """Where each of these runs is now, by the fold of `esper state`; a run's own view says why one has none."""
    found = {}
    for run_id in runs:
        line = folded.Line.of(history, run_id)
        mark = None if line is None else folded.mark_now(history, line)
        if mark is not None:
            found[run_id] = mark
    return found


def _run(run: Mapping[str, Any], mark: Mark | None) -> dict[str, Any]:
    told = figure_of_row(run) or figure_of_row(run, "probe")
    seeds = (
        [] if mark is None else [(each.seed_id, stage(each.stage), each.alpha) for each in mark.model.seeds.values()]
    )
    return {
        **{name: run[name] for name in _RUN},
        "told": None if run["work"] is None else run["work"]["told"],
        "metric": None if told is None else told.phrase,
        "seeds": [
            {"seed_id": name, "stage": where, "alpha": alpha} for name, where, alpha in seeds if where != "DORMANT"
        ],
    }


def _alert(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "alert_id"}


def run_view(history: History, word: str, tails: Tails) -> dict[str, Any]:
    """One run: its sentence and figures, its state now, the newest decisions with their reasons, and events."""
    run_id = find_run(history, word)
    told = brief_query(history, run_id)
    decisions = sorted([*told.decided.rows, *told.idle.rows], key=lambda row: row["log_offset"], reverse=True)
    return {
        "run": _run({**told.run, "trainer_lives": None, "work": None}, None),
        "generation": history.manifest.generation,
        "verdict": verdict(told),
        "tiles": tiles(told),
        "steps_per_epoch": max(told.start["steps_per_epoch"], 1),
        "state": _state(history, run_id, None),
        "decisions": {
            "total": told.decided.total + told.idle.total,
            "acted": told.decided.total,
            "rows": [_decision(row) for row in decisions[:ROWS_SHOWN]],
        },
        "events": tails.lines(history, run_id),
    }


def _decision(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "epoch": row["epoch"],
        "chosen": with_names(row.get("chosen", "nothing")),
        "reason": with_names(row["reason"]),
        "risk": row.get("risk"),
        "outcome": row.get("outcome"),
        "rejected": row.get("rejected_reason"),
    }


def state_view(history: History, word: str, at: str | None) -> dict[str, Any]:
    """What `esper state RUN --at AT --json` says, and beside it blueprints by their names."""
    run_id = find_run(history, word)
    return _state(history, run_id, at)


def _state(history: History, run_id: str, at: str | None) -> dict[str, Any]:
    found = state_json(history, run_id, None if at is None else place_of(at))
    names = {each["blueprint_id"]: with_names(each["blueprint_id"]) for each in found["seeds"] if each["blueprint_id"]}
    return {**found, "names": names}


def pictures_view(history: History, word: str, width: int) -> dict[str, Any]:
    """The run's curves of loss, beside its control run's, and its seeds' lanes, as SVG that is so wide."""
    run_id = find_run(history, word)
    wide = min(max(width // WIDTH_STEP * WIDTH_STEP, NARROWEST), WIDEST)
    runs = brief_query(history, run_id).runs
    return {
        "width": wide,
        "loss": _picture(of_run.loss(history, runs, wide)),
        "seeds": _picture(of_run.seeds(history, run_id, wide)),
    }


def _picture(drawn: Picture) -> dict[str, Any]:
    return {"svg": drawn.svg, "frame": None if drawn.frame is None else asdict(drawn.frame)}


class Tails:
    """The newest events of the runs that are looked at, each followed as `esper events --follow` does."""

    def __init__(self) -> None:
        self._followed: OrderedDict[str, tuple[EventReader, deque[Event]]] = OrderedDict()

    def lines(self, history: History, run_id: str) -> list[dict[str, Any]]:
        """One line for each of the newest events, the newest first; without telemetry and the library of kernels."""
        if run_id not in self._followed:
            types = types_of((), {*CHATTER, *TELEMETRY.bodies, *KEPT_STATES})
            self._followed[run_id] = (EventReader(history, run_id, types), deque(maxlen=EVENTS_SHOWN))
        self._followed.move_to_end(run_id)
        while len(self._followed) > FOLLOWED:
            self._followed.popitem(last=False)
        reader, newest = self._followed[run_id]
        newest.extend(reader.new())
        return [_line(event) for event in reversed(newest)]


def _line(event: Event) -> dict[str, Any]:
    return {
        "id": text(event.event_id),
        "at": event.recorded_at_ns / 1e9,
        "epoch": event.epoch,
        "step": event.global_step,
        "type": body_name(event),
        "told": headline(event),
    }
