"""What SQL says of a run with its ancestors, as of a fork of a fork, is what the fold of their facts says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from esper.record import Mark, mark_at_epoch, mark_at_step, packets, replay
from projections import folded, open_history
from projections.archive_writer import Archive
from projections.run_queries import decision_on
from projections.testing import LogOfRecords
from tests.unit.record.families import Member, family

PLACES = (("step", 0), ("step", 25), ("epoch", 2), ("step", 10**9))


def plain(mark: Mark | None) -> tuple[object, ...] | None:
    """What is told of a place."""
    if mark is None:
        return None
    seeds = {seed_id: replace(seed, moved=False) for seed_id, seed in mark.model.seeds.items()}
    return mark.sequence, replace(mark.model, seeds=seeds), mark.run_status


def check(folder: Path, members: Sequence[Member], asked: Sequence[Member], places: Sequence[tuple[str, int]]) -> None:
    with Archive(folder) as archive:
        archive.append(LogOfRecords().place(event for member in members for event in member.run.events))
    with open_history(folder) as history:
        for member in asked:
            run_id, state = member.run.run_id, replay(member.history)
            line = folded.Line.of(history, run_id)
            assert (line is None) == (state.problem is not None)
            if line is None:
                continue
            now = folded.run_now(history, line)
            assert (now.sequence, now.status, now.incarnation) == (state.sequence, state.status, state.incarnation)
            for unit, number in places:
                then = (mark_at_step if unit == "step" else mark_at_epoch)(state, number)
                found = folded.mark_at(history, line, unit, number)
                assert plain(found) == plain(then), (run_id, unit, number)
                if then is not None:
                    runs = [stretch.run_id for stretch in line.stretches]
                    expected = decision_on(history, runs, packets(state, then))
                    assert folded.decision_before(history, line, found) == expected


def test_a_fork_of_a_fork_is_folded_by_sql_as_fact_by_fact(tmp_path):
    members = family(2)
    assert replay(members[2].history).problem is None

    check(tmp_path, members, members[2:], PLACES[1:3])


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_all_forks_are_folded_by_sql_as_fact_by_fact(tmp_path):
    """Some went behind their beginning, and some of them could not."""
    members = [member for seed in range(12) for member in family(seed)]

    check(tmp_path, members, members, PLACES)
