"""The Python fold and the SQL fold say the same of any history, however wrong it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.history import RunState, replay, stages_by_epoch
from projections import open_history
from projections.archive import Archive
from projections.testing import LogOfRecords, Trainers

Act = Callable[[Trainers], None]

who = st.integers(0, 3)
small = st.integers(0, 12)
HARMLESS: st.SearchStrategy[Act] = st.one_of(
    st.builds(lambda a, b, c: lambda t: t.move(a, b, c), who, small, small),
    st.builds(lambda a, b, c: lambda t: t.move(a, b, c), who, small, small),
    st.builds(lambda a: lambda t: t.complete_epoch(a), who),
    st.builds(lambda a: lambda t: t.train(a), who),
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
)
HISTORIES = st.lists(
    st.tuples(st.lists(HARMLESS, max_size=40), st.lists(WRONG, max_size=2), st.lists(HARMLESS, max_size=15)),
    min_size=1,
    max_size=6,
)
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


def fold_in_python(runs: list[Trainers]) -> dict[str, RunState]:
    return {trainers.run_id: replay(trainers.events) for trainers in runs}


def check(acts: list[tuple[list[Act], list[Act], list[Act]]], chunk: int) -> None:
    runs = [Trainers(f"run-{place}") for place in range(len(acts))]
    for trainers, parts in zip(runs, acts, strict=True):
        for act in (act for part in parts for act in part):
            act(trainers)
    states = fold_in_python(runs)
    records = LogOfRecords().place(event for trainers in runs for event in trainers.events)
    with tempfile.TemporaryDirectory() as folder, Archive(Path(folder)) as archive:
        for start in range(0, len(records), chunk):
            archive.append(records[start : start + chunk])
        with open_history(Path(folder)) as history:
            now = history.execute("SELECT run_id, seed_id, stage FROM fold_stages").fetchall()
            then = history.execute("SELECT run_id, sequence, seed_id, stage FROM fold_stage_at_epoch").fetchall()
            problems = history.execute("SELECT run_id, problem, sequence FROM fold_problems").fetchall()

    assert {
        (run, state.problem.kind, state.problem.sequence) for run, state in states.items() if state.problem
    } == set(problems)
    assert {(run, seed.seed_id, seed.stage) for run, state in states.items() for seed in state.seeds.values()} == set(now)
    assert {
        (run, sequence, seed_id, stage)
        for run, state in states.items()
        for sequence, stages in stages_by_epoch(state).items()
        for seed_id, stage in stages.items()
    } == set(then)
    assert len(now) == len(set(now))
    assert len(then) == len(set(then))


@settings(max_examples=20, deadline=None, suppress_health_check=QUIET)
@given(acts=HISTORIES, chunk=st.sampled_from([7, 50, 1_000]))
def test_folds_agree(acts, chunk):
    """On legal and illegal histories with repetitions, zombies, racing claims, rollbacks and resumes among them."""
    check(acts, chunk)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@settings(max_examples=1_500, deadline=None, suppress_health_check=QUIET)
@given(acts=HISTORIES, chunk=st.sampled_from([7, 50, 1_000]))
def test_folds_agree_at_length(acts, chunk):
    """The same, on very many more."""
    check(acts, chunk)
