"""The Python fold and the SQL fold say the same of any history, however wrong it is."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.metric import figures_of_rows
from esper.record import RunState, SeedState, mark_at_step, packets, replay, stages_by_epoch
from esper.record.run_status import marks
from projections import open_history
from projections.archive_writer import Archive
from projections.history import History
from projections.records import StoredRecord
from projections.testing import LogOfRecords, Trainers

Act = Callable[[Trainers], None]

who = st.integers(0, 3)
small = st.integers(0, 12)
HARMLESS: st.SearchStrategy[Act] = st.one_of(
    st.builds(lambda a, b, c: lambda t: t.move(a, b, c), who, small, small),
    st.builds(lambda a, b, c: lambda t: t.move(a, b, c), who, small, small),
    st.builds(lambda a: lambda t: t.complete_epoch(a), who),
    st.builds(lambda a: lambda t: t.train(a), who),
    st.builds(lambda a, b, c: lambda t: t.note(a, b, c), who, small, small),
    st.builds(lambda a, b, c: lambda t: t.note(a, b, c), who, small, small),
    st.builds(lambda a: lambda t: t.repeat(a), st.integers(0, 200)),
    st.builds(lambda a, b: lambda t: t.roll_back(a, b), who, small),
    st.builds(lambda a, b: lambda t: t.resume(a, b), who, small),
    st.just(lambda t: t.decide()),
)
WRONG: st.SearchStrategy[Act] = st.one_of(
    st.builds(lambda a, b, c: lambda t: t.force(a, b, c), who, small, st.integers(0, 143)),
    st.builds(lambda a, b: lambda t: t.roll_back(a, b, astray=True), who, st.integers(0, 40)),
    st.builds(lambda a, b: lambda t: t.resume(a, b, astray=True), who, st.integers(0, 40)),
    st.builds(lambda a: lambda t: t.lose(a), who),
    st.builds(lambda a, b: lambda t: t.clash(a, b), who, small),
    st.builds(lambda a: lambda t: t.finish(a), who),
    st.builds(lambda a: lambda t: t.intrude(a), st.integers(0, 2)),
    st.just(lambda t: t.forget_start()),
)
HISTORIES = st.lists(
    st.tuples(st.lists(HARMLESS, max_size=40), st.lists(WRONG, max_size=2), st.lists(HARMLESS, max_size=15)),
    min_size=1,
    max_size=6,
)
STAGES_AT_EPOCHS = """
    SELECT epoch.run_id, epoch.sequence, seed_id,
        coalesce(arg_max(stage_number(to_stage), move.sequence) FILTER (move.sequence < epoch.sequence), 1)
    FROM (FROM epochs WHERE surviving) AS epoch
    JOIN seeds USING (run_id)
    LEFT JOIN (FROM transitions WHERE surviving) AS move USING (run_id, seed_id)
    GROUP BY ALL
"""
"""The stage of every seed at the end of every surviving epoch, from what people read."""
AT_STEPS = (25, 10**9)
SEED_FIGURES = tuple(each.name for each in fields(SeedState) if each.name != "moved")  # which only guides the fold
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


def fold_in_python(runs: list[Trainers]) -> dict[str, RunState]:
    return {trainers.run_id: replay(trainers.events) for trainers in runs}


def played(acts: list[tuple[list[Act], list[Act], list[Act]]]) -> list[Trainers]:
    """One run for each list of acts."""
    runs = [Trainers(f"run-{place}") for place in range(len(acts))]
    for trainers, parts in zip(runs, acts, strict=True):
        for act in (act for part in parts for act in part):
            act(trainers)
    return runs


def check(runs: list[Trainers], chunk: int) -> None:
    states = fold_in_python(runs)
    records = LogOfRecords().place(event for trainers in runs for event in trainers.events)
    with tempfile.TemporaryDirectory() as folder:
        archive_with_restarts(Path(folder), records, chunk)
        with open_history(Path(folder)) as history:
            now = history.execute("SELECT run_id, seed_id, stage_number(stage) FROM seeds").fetchall()
            then = history.execute(STAGES_AT_EPOCHS).fetchall()
            problems = history.execute("SELECT run_id, problem, sequence FROM stops").fetchall()
            facts = history.execute("SELECT run_id, sequence, event_id, body, step, epoch, on_path FROM accepted_facts")
            facts = facts.fetchall()
            at_steps = {step: (runs_in_sql(history, step), seeds_in_sql(history, step)) for step in AT_STEPS}

    assert problems_of(states) == set(problems)
    assert stages_of(states) == set(now)
    assert stages_then(states) == set(then)
    assert facts_of(states) == {(run, sequence, event_id) for run, sequence, event_id, *_ in facts}
    assert paths_of(states) == {(run, sequence, *what) for run, sequence, _, *what, on_path in facts if on_path}
    for step, (runs_then, seeds_then) in at_steps.items():
        assert runs_in_python(states, step) == runs_then
        assert seeds_in_python(states, step) == seeds_then
    assert len(facts) == len({(run, sequence) for run, sequence, *_ in facts})
    assert len(now) == len(set(now))
    assert len(then) == len(set(then))


def runs_in_sql(history: History, step: int) -> dict[str, tuple[object, ...]]:
    rows = history.execute(
        """
        SELECT run_id, sequence, timeline, step, epoch, status, reason, params, probe_loss, probe_accuracy,
            packet_id, learning_rates, list_transform(windows, lambda each: [each.command_id, each.seed_id::BLOB]),
            breakers, conservative, checkpoints, checkpoint, last_command_id, last_decision_id, metrics
        FROM fold_state_at(?)
        """,
        [step],
    ).fetchall()
    accuracy = 8
    return {run: (*told, figures_of_rows(metrics, told[accuracy])) for run, *told, metrics in rows}


def runs_in_python(states: dict[str, RunState], step: int) -> dict[str, tuple[object, ...]]:
    marked = {run: (state, mark) for run, state in states.items() if (mark := mark_at_step(state, step))}
    return {
        run: (
            mark.sequence,
            mark.run_status.timeline,
            mark.model.step,
            mark.model.epoch,
            mark.run_status.status,
            mark.run_status.reason,
            mark.model.params,
            mark.model.probe_loss,
            mark.model.probe_accuracy,
            next(packets(state, mark), None),
            {group: asdict(rate) for group, rate in mark.model.learning_rates.items()},
            [[command, seed.encode()] for command, seed in mark.model.windows.items()],
            mark.run_status.breakers,
            mark.run_status.conservative,
            mark.run_status.checkpoints,
            asdict(mark.model.checkpoint) if mark.model.checkpoint else None,
            mark.run_status.last_command_id or None,
            mark.run_status.last_decision_id or None,
            [*mark.model.metrics],
        )
        for run, (state, mark) in marked.items()
    }


def seeds_in_sql(history: History, step: int) -> set[tuple[object, ...]]:
    columns = ", ".join(SEED_FIGURES)
    return set(history.execute(f"SELECT run_id, {columns} FROM fold_seeds_at(?)", [step]).fetchall())


def seeds_in_python(states: dict[str, RunState], step: int) -> set[tuple[object, ...]]:
    return {
        (run, *(getattr(seed, figure) for figure in SEED_FIGURES))
        for run, state in states.items()
        if (mark := mark_at_step(state, step))
        for seed in mark.model.seeds.values()
    }


def facts_of(states: dict[str, RunState]) -> set[tuple[str, int, bytes | None]]:
    return {
        (run, sequence, state.ledger.id_of(sequence))
        for run, state in states.items()
        for sequence in range(1, state.ledger.length + 1)
    }


def paths_of(states: dict[str, RunState]) -> set[tuple[str, int, str, int, int]]:
    return {
        (run, mark.sequence, mark.body, mark.model.step, mark.model.epoch)
        for run, state in states.items()
        for mark in marks(state)
    }


def archive_with_restarts(folder: Path, records: list[StoredRecord], chunk: int) -> None:
    """Every third flush by another owner, which does not remember how far runs had come."""
    starts = range(0, len(records), chunk)
    for place in range(0, len(starts), 3):
        with Archive(folder) as archive:
            for start in starts[place : place + 3]:
                archive.append(records[start : start + chunk])


def problems_of(states: dict[str, RunState]) -> set[tuple[str, str, int]]:
    found = ((run, state.problem) for run, state in states.items())
    return {(run, problem.kind, problem.sequence) for run, problem in found if problem is not None}


def stages_of(states: dict[str, RunState]) -> set[tuple[str, str, int]]:
    return {(run, seed_id, seed.stage) for run, state in states.items() for seed_id, seed in state.seeds.items()}


def stages_then(states: dict[str, RunState]) -> set[tuple[str, int, str, int]]:
    return {
        (run, sequence, seed_id, stage)
        for run, state in states.items()
        for sequence, stages in stages_by_epoch(state).items()
        for seed_id, stage in stages.items()
    }


@settings(max_examples=5, deadline=None, suppress_health_check=QUIET)
@given(acts=HISTORIES, chunk=st.sampled_from([7, 50, 1_000]))
def test_folds_agree(acts, chunk):
    """On legal and illegal histories with repetitions, zombies, racing claims, rollbacks and resumes among them."""
    check(played(acts), chunk)


def at_random(seed: int) -> Trainers:
    """A run of up to 60 acts: without shrinking, and so many more of them in the same time."""
    chance = random.Random(seed)
    run = Trainers(f"run-{seed}")

    def who() -> int:
        return chance.randrange(4)

    harmless: list[Callable[[], None]] = [
        *[lambda: run.move(who(), chance.randrange(3), chance.randrange(5))] * 4,
        lambda: run.complete_epoch(who()),
        lambda: run.train(who()),
        *[lambda: run.note(who(), chance.randrange(9), chance.randrange(6))] * 3,
        lambda: run.repeat(chance.randrange(200)),
        lambda: run.roll_back(who(), chance.randrange(12)),
        lambda: run.resume(who(), chance.randrange(12)),
        run.decide,
    ]
    wrong: list[Callable[[], None]] = [
        lambda: run.force(who(), chance.randrange(4), chance.randrange(144)),
        lambda: run.roll_back(who(), chance.randrange(40), astray=True),
        lambda: run.resume(who(), chance.randrange(40), astray=True),
        lambda: run.lose(who()),
        lambda: run.clash(who(), chance.randrange(12)),
        lambda: run.intrude(chance.randrange(3)),
        lambda: run.finish(who()),
        run.forget_start,
    ]
    before, after = chance.randrange(45), chance.randrange(15)
    acts = [*chance.choices(harmless, k=before), *chance.choices(wrong, k=chance.randrange(2))]
    for act in [*acts, *chance.choices(harmless, k=after)]:
        act()
    return run


@pytest.mark.parametrize("first", [0, 108_450])
def test_folds_agree_on_many(first):
    """Every kind of problem is among them."""
    runs = [at_random(seed) for seed in range(first, first + 250)]

    check(runs, chunk=2_000)

    kinds = {state.problem.kind for state in fold_in_python(runs).values() if state.problem}
    assert kinds == {
        "not_started", "gap", "conflict", "unclaimed", "bad_claim", "bad_rollback", "illegal_transition"
    }  # fmt: skip


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@settings(max_examples=1_500, deadline=None, suppress_health_check=QUIET)
@given(acts=HISTORIES, chunk=st.sampled_from([7, 50, 1_000]))
def test_folds_agree_at_length(acts, chunk):
    """The same, on very many more."""
    check(played(acts), chunk)
