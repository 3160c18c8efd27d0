"""A fork's history begins with its parent's: read, folded in Python and folded in SQL, it is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from esper.errors import InvalidInput
from esper.kasmina.lifecycle import DORMANT, GERMINATED, TRAINING
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.record import Recorded, accepted_facts, replay, sequence_at_step
from esper.weatherlight.beginning import partition_in
from projections import open_history
from projections.archive_writer import Archive
from projections.lineage import facts, lineage, requests
from projections.testing import LogOfRecords, Trainers


def child_of(parent: Trainers, shared: Event, run_id: str = "child") -> Trainers:
    """A fork that shares its parent's facts up to `shared` and goes on from there."""
    child = Trainers(run_id)
    before = replay(parent.events[: parent.events.index(shared) + 1])
    trainer = child.trainers[0]
    trainer.sequence, trainer.step, trainer.epoch = shared.sequence, shared.global_step, shared.epoch
    trainer.timeline = before.timeline
    trainer.stages = {seed_id: seed.stage for seed_id, seed in before.seeds.items()}
    start = child.events.pop().run_started
    start.parent_run_id, start.parent_sequence = parent.run_id, shared.sequence
    start.inherited.extend(
        pb.SeedObservation(seed_id=seed_id, stage=seed.stage, blueprint_id="BP001", life=1)
        for seed_id, seed in before.seeds.items()
    )
    child.publish(trainer, start).causation_id = shared.event_id
    return child


@pytest.fixture
def family() -> list[Trainers]:
    """A parent, its child from the parent's first epoch on, and the child's child."""
    parent = Trainers("parent")
    parent.move(0, 0, 0)
    parent.complete_epoch(0)
    parent.move(0, 0, 0)
    parent.complete_epoch(0)
    child = child_of(parent, parent.events[2])
    child.move(0, 0, 0)
    child.complete_epoch(0)
    grandchild = child_of(child, child.events[-1], "grandchild")
    grandchild.complete_epoch(0)
    return [parent, child, grandchild]


def archived(folder: Path, family: list[Trainers]) -> None:
    records = LogOfRecords().place(event for run in family for event in run.events)
    with Archive(folder) as archive:
        archive.append(records)


def test_a_fork_is_read_with_its_ancestors(tmp_path, family):
    archived(tmp_path, family)
    with open_history(tmp_path) as history:
        read = list(facts(history, "grandchild"))
        names = [stretch.run_id for stretch in lineage(history, "grandchild")]

    assert names == ["parent", "child", "grandchild"]
    assert [(fact.run_id, fact.sequence) for fact in read] == [
        ("parent", 1), ("parent", 2), ("parent", 3), ("child", 4), ("child", 5), ("child", 6), ("grandchild", 7),
        ("grandchild", 8),
    ]  # fmt: skip


def test_a_fork_goes_on_from_its_parents_world(tmp_path, family):
    archived(tmp_path, family)
    with open_history(tmp_path) as history:
        state = replay(facts(history, "grandchild"))
        alone = replay(family[2].events)

    assert (state.problem, state.run_id, state.sequence) == (None, "grandchild", 8)
    assert state.seeds["s1"].stage == TRAINING == alone.seeds["s1"].stage
    assert (state.model.step, alone.model.step) == (30, 30)
    assert (alone.problem, alone.sequence) == (None, 8)


def test_the_sql_fold_knows_what_a_fork_inherited(tmp_path, family):
    archived(tmp_path, family)
    with open_history(tmp_path) as history:
        problems = history.execute("SELECT * FROM stops").fetchall()
        stages = history.execute("SELECT seed_id, stage_number(stage) FROM seeds WHERE run_id = 'child'").fetchall()
        rows = history.execute("SELECT run_id, seed_id, stage, blueprint_id FROM seeds ORDER BY ALL").fetchall()
        (status,) = history.execute("SELECT status FROM runs WHERE run_id = 'grandchild'").fetchone()

    assert problems == []
    assert dict(stages) == {"s1": TRAINING, "s2": DORMANT, "s3": DORMANT}
    assert ("grandchild", "s1", "TRAINING", "BP001") in rows
    assert status == "running"


def test_a_rollback_of_a_fork_may_go_back_to_its_parents_facts(family):
    """A fork in the middle of an epoch has no state of its own to go back to."""
    parent, child, _ = family
    child.trainers[0].past.insert(0, (2, 0, 0, {"s1": GERMINATED, "s2": DORMANT, "s3": DORMANT}))
    child.roll_back(0, 4)

    state = replay([*parent.events[:3], *child.events])

    assert (state.problem, state.seeds["s1"].stage, state.sequence) == (None, GERMINATED, 7)


def gone_back(family: list[Trainers]) -> list[Trainers]:
    """The child went back to its parent's second fact, when s1 had just germinated, and on to another epoch."""
    child = family[1]
    child.trainers[0].past.insert(0, (2, 0, 0, {"s1": GERMINATED, "s2": DORMANT, "s3": DORMANT}))
    child.roll_back(0, 4)
    child.complete_epoch(0)
    return family[:2]


def test_the_sql_fold_follows_a_fork_behind_its_beginning(tmp_path, family):
    archived(tmp_path, gone_back(family))
    with open_history(tmp_path) as history:
        state = replay(facts(history, "child"))
        problems = history.execute("SELECT * FROM stops").fetchall()
        query = "SELECT seed_id, stage, blueprint_id, life, alpha, since FROM seeds WHERE run_id = 'child'"
        seeds = {seed_id: tuple(figures) for seed_id, *figures in history.execute(query).fetchall()}
        query = "SELECT form, since_sequence, since_step, since_epoch FROM fold_seeds_at(9999) WHERE run_id = 'child'"
        since = history.execute(f"{query} AND seed_id = 's1'").fetchall()
        path = history.execute("SELECT sequence FROM accepted_facts WHERE run_id = 'child' AND on_path").fetchall()

    seed = state.seeds["s1"]
    assert (state.problem, problems) == (None, [])
    assert seeds["s1"] == ("GERMINATED", "BP008", 1, 0.5, None)
    assert seeds["s2"] == ("DORMANT", None, 0, 0, None)
    assert since == [(seed.form, seed.since_sequence, seed.since_step, seed.since_epoch)] == [("", 2, 0, 0)]
    assert sorted(path) == [(7,), (8,)]


def test_without_its_parent_a_fork_cannot_go_back_behind_its_beginning(tmp_path, family):
    """Both folds stop there; the parent's facts may come later, and then both go on."""
    parent, child = gone_back(family)
    places, problems = LogOfRecords(), "SELECT run_id, problem, sequence FROM stops"
    with Archive(tmp_path) as archive, open_history(tmp_path) as history:
        archive.append(places.place(child.events))
        stopped = history.execute(problems).fetchall()
        alone = replay(facts(history, "child")).problem
        archive.append(places.place(parent.events))

        assert alone is not None
        assert stopped == [("child", alone.kind, alone.sequence)] == [("child", "bad_rollback", 7)]
        assert history.execute(problems).fetchall() == []
        assert replay(facts(history, "child")).problem is None


def test_a_fork_that_does_not_go_on_from_its_parent_is_stopped(family):
    parent, child, _ = family
    child.events[0].run_started.parent_sequence = 9

    state = replay([*parent.events[:3], *child.events])

    assert state.problem is not None
    assert state.problem.kind == "bad_claim"


def test_the_accepted_facts_are_one_unbroken_row(family):
    """Repetitions and what another incarnation superseded are left out; a rolled-back stretch is there."""
    parent = family[0]
    parent.roll_back(0, 1)
    parent.repeat(1)
    parent.resume(0, 0)
    parent.complete_epoch(0)  # of the incarnation that was superseded
    parent.complete_epoch(1)
    accepted = accepted_facts(parent.events)

    assert [fact.sequence for fact in accepted.facts] == list(range(1, accepted.state.sequence + 1))
    assert [fact.WhichOneof("body") for fact in accepted.facts][-3:] == [
        "rolled_back",
        "run_resumed",
        "epoch_completed",
    ]
    assert accepted.facts[-1].incarnation == 2
    assert (sequence_at_step(accepted.state, 9), sequence_at_step(accepted.state, 15)) == (2, 7)


def test_requests_are_read_as_they_were_signed(tmp_path, family):
    family[0].decide()
    archived(tmp_path, family)
    with open_history(tmp_path) as history:
        (found,) = list(requests(history, "child"))

    event, signed = found
    assert event.WhichOneof("body") == "decision_made"
    assert signed.payload == event.SerializeToString()
    assert (signed.key_id, signed.signature) == ("test", bytes(32))


def test_a_run_that_is_no_fork_is_its_own_lineage(tmp_path):
    run = Trainers("alone")
    run.complete_epoch(0)
    archived(tmp_path, [run])
    with open_history(tmp_path) as history:
        assert [stretch.run_id for stretch in lineage(history, "alone")] == ["alone"]
        assert list(facts(history, "alone")) == run.events
        assert lineage(history, "nobody")[0].run_id == "nobody"


def test_a_fork_shares_the_very_fact_that_it_names(tmp_path):
    """A later incarnation of the parent wrote other facts with the same sequences: the fork is not of those."""
    parent = Trainers("parent")
    parent.complete_epoch(0)
    parent.complete_epoch(0)
    shared = parent.events[2]
    parent.resume(0, 2)
    parent.complete_epoch(1)
    child = child_of(parent, shared)
    archived(tmp_path, [parent, child])
    with open_history(tmp_path) as history:
        read = list(facts(history, "child"))

    assert read[2] == shared
    assert [fact.sequence for fact in read] == [1, 2, 3, 4]


def test_an_event_without_a_run_of_its_own_is_not_taken_for_a_fork():
    event = new_event(
        pb.RunStarted(), event_id=ids.derived_id(b"x", "y"), run_id="", producer="trainer", recorded_at_ns=1
    )

    assert replay([event]).problem.kind == "not_started"


def test_a_fork_whose_parent_is_elsewhere_is_no_record_to_train_by(tmp_path, family):
    """Its facts alone begin in the middle; who has both can go on with it."""
    archived(tmp_path / "whole", family)
    archived(tmp_path / "part", family[1:2])
    with open_history(tmp_path / "whole") as history:
        recorded = Recorded.of("child", facts(history, "child"), [])
    assert [fact.sequence for fact in recorded.facts] == [1, 2, 3, 4, 5, 6]

    with open_history(tmp_path / "part") as history, pytest.raises(InvalidInput, match="child was forked from parent"):
        Recorded.of("child", facts(history, "child"), [])


def test_whoever_goes_on_with_a_run_finds_the_partition_that_it_is_on(tmp_path):
    """An older Esper went on where the key lay by then, when somebody had added partitions."""
    log, run, moved = LogOfRecords(), Trainers("run"), Trainers("moved")
    for each in (run, moved):
        each.complete_epoch(0)
        each.resume(0, 0)
    records = [*log.place(run.events), *log.place(moved.events)]
    resumed = next(each for each in records if each.value == moved.events[-1].SerializeToString())
    records = [replace(each, partition=9, offset=0) if each is resumed else each for each in records]
    with Archive(tmp_path / "archive") as archive:
        archive.append(records)

    assert partition_in(tmp_path / "archive", "run") == records[0].partition
    assert partition_in(tmp_path / "archive", "moved") == 9
    assert partition_in(tmp_path / "archive", "unheard of") is None
    assert partition_in(tmp_path / "none", "run") is None
