"""The SQL fold says of a fork what the Python fold says that was given the ancestors' facts first.

Of its own facts, as far as they tell: what a fork's first fact does not say of its parent is nothing that SQL knows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.record import RunState, mark_at_step, replay
from esper.record.run_status import Mark, marks
from projections import open_history
from projections.history import History
from projections.lineage import facts
from projections.testing import LogOfRecords
from tests.unit.record.families import Member, family
from tests.unit.record.test_folds_agree import archive_with_restarts, problems_of, stages_of

OF_A_SEED = ("stage", "blueprint_id", "alpha", "life", "parameters", "stage_age_epochs")
"""What a fork's first fact says of a seed; its form and since when it is in its stage only the parent's facts know."""
AT_STEPS = (25, 10**9)
STAGES_AT_EPOCHS = """
    SELECT epoch.run_id, epoch.sequence, slot.seed_id,
        coalesce(arg_max(stage, figure.sequence) FILTER (figure.sequence < epoch.sequence), 1)
    FROM (FROM epochs WHERE surviving) AS epoch
    JOIN seed_slots AS slot USING (run_id)
    LEFT JOIN seed_figures AS figure
        ON figure.run_id = slot.run_id AND figure.seed_id = slot.seed_id AND figure.stage IS NOT NULL
        AND survives(figure.run_id, figure.log_offset, figure.sequence)
    GROUP BY ALL
"""
"""The stage of every seed at the end of every surviving epoch: of its moves, and as the fork found it."""


def check(members: list[Member], chunk: int) -> None:
    states = {member.run.run_id: replay(member.history) for member in members}
    paths = {member.run.run_id: own_path(member, states[member.run.run_id]) for member in members}
    records = LogOfRecords().place(event for member in members for event in member.run.events)
    with tempfile.TemporaryDirectory() as folder:
        archive_with_restarts(Path(folder), records, chunk)
        with open_history(Path(folder)) as history:
            read = {run: replay(facts(history, run)) for run in states}
            problems = asked(history, "SELECT run_id, problem, sequence FROM stops")
            now = asked(history, "SELECT run_id, seed_id, stage_number(stage) FROM seeds")
            then = asked(history, STAGES_AT_EPOCHS)
            counted = asked(history, "SELECT run_id, sequence FROM accepted_facts")
            on_path = asked(history, "SELECT run_id, sequence, body, step, epoch FROM accepted_facts WHERE on_path")
            at_steps = {step: (runs_in_sql(history, step), seeds_in_sql(history, step)) for step in AT_STEPS}

    assert {run: (state.problem, state.sequence) for run, state in read.items()} == {
        run: (state.problem, state.sequence) for run, state in states.items()
    }
    assert problems == problems_of(states)
    assert now == stages_of(states)
    assert then == stages_then(paths)
    assert counted == counted_in_python(members, states)
    assert on_path == {
        (run, mark.sequence, mark.body, mark.model.step, mark.model.epoch)
        for run, path in paths.items()
        for mark in path
    }
    for step, (runs_then, seeds_then) in at_steps.items():
        marked = {run: mark for run, path in paths.items() if (mark := mark_at_step(states[run], step)) in path}
        assert runs_then == runs_in_python(marked)
        assert seeds_then == seeds_in_python(marked)


def asked(history: History, query: str, *parameters: int) -> set[tuple[object, ...]]:
    """The rows of an answer, each of which is there once."""
    rows = history.execute(query, list(parameters)).fetchall()
    assert len(rows) == len(set(rows))
    return set(rows)


def own_path(member: Member, state: RunState) -> list[Mark]:
    """The part of the path that is the run's and no ancestor's."""
    own = {event.event_id for event in member.run.events}
    return [mark for mark in marks(state) if state.ledger.id_of(mark.sequence) in own]


def stages_then(paths: dict[str, list[Mark]]) -> set[tuple[object, ...]]:
    return {
        (run, mark.sequence, seed.seed_id, seed.stage)
        for run, path in paths.items()
        for mark in path
        if mark.body == "epoch_completed"
        for seed in mark.model.seeds.values()
    }


def counted_in_python(members: list[Member], states: dict[str, RunState]) -> set[tuple[object, ...]]:
    ledgers = {member.run.run_id: states[member.run.run_id].ledger for member in members}
    return {
        (member.run.run_id, sequence)
        for member in members
        for own in [{event.event_id for event in member.run.events}]
        for sequence in range(1, ledgers[member.run.run_id].length + 1)
        if ledgers[member.run.run_id].id_of(sequence) in own
    }


def runs_in_sql(history: History, step: int) -> set[tuple[object, ...]]:
    return asked(history, "SELECT run_id, sequence, timeline, step, epoch, status FROM fold_state_at(?)", step)


def runs_in_python(marked: dict[str, Mark]) -> set[tuple[object, ...]]:
    return {
        (run, mark.sequence, mark.run_status.timeline, mark.model.step, mark.model.epoch, mark.run_status.status)
        for run, mark in marked.items()
    }


def seeds_in_sql(history: History, step: int) -> set[tuple[object, ...]]:
    return asked(history, f"SELECT run_id, seed_id, {', '.join(OF_A_SEED)} FROM fold_seeds_at(?)", step)


def seeds_in_python(marked: dict[str, Mark]) -> set[tuple[object, ...]]:
    return {
        (run, seed.seed_id, *(getattr(seed, figure) for figure in OF_A_SEED))
        for run, mark in marked.items()
        for seed in mark.model.seeds.values()
    }


def went_behind(member: Member) -> bool:
    """Whether a fork's path no longer has its own beginning."""
    path = own_path(member, replay(member.history))
    return bool(path) and path[-1].body != "run_started"


def test_folds_agree_on_forks():
    """Children and grandchildren that went behind their beginning are among them, and some that could not."""
    families = [family(seed) for seed in range(50)]

    check([member for members in families for member in members], chunk=2_000)

    for generation in (1, 2):
        assert sum(went_behind(members[generation]) for members in families) > 10
    problems = {replay(members[generation].history).problem for members in families for generation in (1, 2)}
    assert "bad_rollback" in {problem.kind for problem in problems if problem}


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=st.integers(0, 10**9), chunk=st.sampled_from([7, 50, 1_000]))
def test_folds_agree_on_forks_at_length(first, chunk):
    """The same, on very many more."""
    check([member for seed in range(first, first + 20) for member in family(seed)], chunk)
