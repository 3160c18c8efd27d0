"""What the tables say: the same as the archive's views and the fold, and all that a learner needs."""

from __future__ import annotations

import random

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from contracts.topics import FOR_EVER
from esper.record import replay
from projections import open_history
from projections.archive_writer import Archive
from projections.registry import PROJECTIONS
from projections.store import Store
from projections.testing import LogOfRecords, Trainers


def at_random(number: int) -> Trainers:
    """A run with rollbacks, resumes and zombies."""
    chance, run = random.Random(number), Trainers(f"run-{number}")
    for _ in range(chance.randrange(25)):
        match chance.randrange(10):
            case 0:
                run.roll_back(chance.randrange(4), chance.randrange(6))
            case 1:
                run.resume(chance.randrange(4), 1)
            case 2:
                run.finish(chance.randrange(4))
            case _:
                run.complete_epoch(chance.randrange(4))
    return run


def test_verdicts_are_those_of_the_archive_and_the_fold(tmp_path):
    """Experience judges as the archive does, and runs end as the fold says."""
    runs = [at_random(number) for number in range(80)]
    placed = LogOfRecords().place(event for run in runs for event in run.events)
    with Archive(tmp_path) as archive:
        archive.append(placed)
    with open_history(tmp_path) as history, Store(PROJECTIONS["experience"], None, None) as store:
        query = "SELECT run_id, status, incarnation FROM runs WHERE status <> 'stopped' ORDER BY ALL"
        held = history.execute(query).fetchall()
        query = "SELECT run_id, sequence, log_verdict FROM log.epoch_completed WHERE log_verdict <> 2 ORDER BY ALL"
        archived = history.execute(query).fetchall()
        for start in range(0, len(placed), 100):
            store.take(placed[start : start + 100])
        judged = store.cursor().execute("SELECT run_id, sequence, verdict FROM packets ORDER BY ALL").fetchall()
    folds = {run.run_id: replay(run.events) for run in runs}

    assert len(held) > 30
    assert {row[1] for row in held} == {"running", "completed"}
    assert max(row[2] for row in held) > 2
    assert judged == archived
    assert len({verdict for *_, verdict in judged}) > 2
    assert {run: status for run, status, *_ in held} == {
        run: state.status for run, state in folds.items() if state.problem is None
    }


def test_experience_has_what_a_learner_needs(expected):
    rows = [row for row in expected["experience"]["experience"] if row["run_id"] == "grown"]
    grew = next(row for row in rows if row["command_id"] is not None)
    undone = [row for row in rows if row["undone"]]

    assert len({row["decision_id"] for row in rows}) == len(rows) == 7
    assert pb.EpochCompleted.FromString(bytes.fromhex(grew["observation"])).state.current_epoch == grew["epoch"] == 2
    assert (grew["actions"][grew["action"]], grew["logits"], grew["draw"]) == (
        "germinate s1 BP009",
        [0.5, -0.25],
        0.125,
    )
    assert (grew["action_mask"], grew["value_estimate"], grew["policy_version"]) == ("0101", 0.75, "1")
    assert (grew["outcome"], grew["loss_delta"], grew["ended_as"]) == ("applied", -0.125, "fossilized")
    assert (grew["probe_loss"], grew["next_probe_loss"]) == (0.5, pytest.approx(1 / 3))
    assert (grew["test_accuracy"], grew["control_accuracy"]) == (0.91, 0.88)
    assert sorted((row["epoch"], row["is_last"]) for row in undone) == [(3, False), (4, True)]
    assert sum(row["is_last"] for row in rows) == 2


def test_every_body_that_is_named_belongs_to_a_topic_that_is_kept_for_ever():
    for projection in PROJECTIONS.values():
        bodies = {body for topic in projection.sources for body in topic.bodies}
        assert projection.rows.keys() <= bodies
        assert all(topic.retention_ms == FOR_EVER for topic in projection.sources)
