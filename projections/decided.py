"""What is decided on opening a history, by the one rule in Python, because the archive's files do not say it.

The verdicts of an archive that has none yet or lacks facts; and those of a fork that went back behind its beginning,
which take its parent's facts, with the seeds as it found them there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from esper.record import fold
from esper.record.accept import Verdict
from esper.record.run_status import RunState
from projections.columns import quoted
from projections.lineage import placed_facts
from projections.verdicts import Placed, fact_rows, insert_verdicts, judged, keep_verdicts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

    from esper.leyline.envelope import Event
    from projections.history import History

VERDICTS: Final = "decided.verdicts"
SEEDS: Final = "decided.seeds"
_SEED: Final = (
    *("seed_id", "site", "stage", "blueprint_id", "alpha", "life", "parameters", "form", "stage_age_epochs"),
    *("since_sequence", "since_step", "since_epoch"),
)


def judge_all(history: History, connection: Connection, sources: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Every fact in `sources` (body's name and SQL of its rows): what is not in the table is accepted.

    Returns the forks that took their parent's facts.
    """
    undecided = {
        run_id
        for run_id, *_, verdict in keep_verdicts(connection, VERDICTS, judged(fact_rows(connection, sources)))
        if verdict is Verdict.UNDECIDED
    }
    judge_forks(history, connection, sorted(undecided))
    return tuple(sorted(undecided))


def judge_forks(history: History, connection: Connection, runs: Sequence[str]) -> None:
    """Every fact of forks that went back behind their beginning."""
    for run_id in runs:
        verdicts, seeds = _fork(history, run_id)
        connection.execute(f"DELETE FROM {VERDICTS} WHERE run_id = ?", [run_id])  # noqa: S608  a name of ours
        connection.execute(f"DELETE FROM {SEEDS} WHERE run_id = ?", [run_id])  # noqa: S608  as above
        insert_verdicts(connection, VERDICTS, verdicts)
        if seeds:
            names = ", ".join("?" * len(seeds[0]))
            connection.executemany(f"INSERT INTO {SEEDS} VALUES ({names})", seeds)  # noqa: S608  as above


def _fork(history: History, run_id: str) -> tuple[list[Placed], list[list[Any]]]:
    """The verdict on each of a fork's own facts, and the seeds after each by which it went behind its beginning."""
    state, seen = RunState(), set[bytes]()
    verdicts: list[Placed] = []
    seeds: list[list[Any]] = []
    shared = 0
    for partition, offset, event in placed_facts(history, run_id):
        state, verdict = fold.step(state, event)
        if event.run_id != run_id or verdict is None:
            continue
        shared = event.run_started.parent_sequence if event.HasField("run_started") and not verdicts else shared
        if event.event_id in seen and not verdict.stops:
            verdict = Verdict.REPEATED
        seen.add(event.event_id)
        verdicts.append((run_id, partition, offset, verdict))
        if verdict is Verdict.ACCEPTED and 0 < _target(event) <= shared:
            seeds += ([run_id, offset, event.sequence, *_figures(seed)] for seed in state.seeds.values())
    return verdicts, seeds


def _target(event: Event) -> int:
    """The sequence that a rollback or a resume goes back to; 0 for any other fact."""
    return event.rolled_back.to_sequence or event.run_resumed.accepted_sequence


def _figures(seed: Any) -> list[Any]:
    known = asdict(seed)
    return [known[name] for name in _SEED]


def inserts(connection: Connection) -> Iterator[str]:
    """SQL that fills the tables with what is in them."""
    for table in (VERDICTS, SEEDS):
        for row in connection.execute(f"FROM {table}").fetchall():
            values = ", ".join(quoted(value) if isinstance(value, str) else str(value) for value in row)
            yield f"INSERT INTO {table} VALUES ({values})"  # noqa: S608  as above
