"""The hint on facts: true only where a fact is plainly the next of its run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from projections import open_history
from projections.archive import Archive
from projections.regularity import Regularity
from projections.testing import LogOfRecords, Trainers


@pytest.fixture
def run() -> Trainers:
    return Trainers("run")


def hints(run: Trainers, regularity: Regularity | None = None, partition: int = 0) -> list[bool]:
    known = regularity or Regularity()
    return [take(known, event, partition) for event in run.events]


def take(known: Regularity, event, partition: int = 0) -> bool:
    return known.take(event.run_id, event.WhichOneof("body"), partition, event.incarnation, event.sequence)


def test_a_plain_run_is_regular(run):
    run.complete_epoch(0)
    run.roll_back(0, 1)
    run.finish(0)

    assert hints(run) == [True, True, True, True]


@pytest.mark.parametrize(
    "act",
    [
        lambda run: run.repeat(1),
        lambda run: run.lose(0),
        lambda run: run.clash(0, 0),
        lambda run: run.intrude(0),
        lambda run: run.resume(0, 0),
        lambda run: run.repeat(0),
    ],
)
def test_anything_else_is_not(act, run):
    run.train(0)
    act(run)

    assert hints(run) == [True, True, False]


def test_after_a_claim_nobody_is_regular(run):
    """Neither the new incarnation nor a zombie of the old one."""
    run.train(0)
    run.resume(0, 0)
    run.train(1)
    run.train(0)

    assert hints(run) == [True, True, False, False, False]


def test_what_is_not_known_is_not_regular(run):
    """A new owner of the archive knows which runs began, and not how far they came; or nothing at all."""
    run.train(0)

    assert hints(run, Regularity({"run"})) == [False, False]
    assert hints(run, Regularity(None)) == [False, False]
    assert take(Regularity(), run.events[1]) is False


def test_a_run_lies_in_one_partition(run):
    run.train(0)
    known = Regularity()
    hints(run, known)
    run.train(0)

    assert take(known, run.events[-1], partition=1) is False


def test_a_refused_fact_makes_the_next_one_irregular(tmp_path: Path, run):
    """The fact after one that cannot be read is no longer the next."""
    for _ in range(3):
        run.train(0)
    records = LogOfRecords().place(run.events)
    torn = replace(records[2], value=records[2].value.replace(b"host", b"h\xffst"))
    with Archive(tmp_path) as archive:
        archive.append([*records[:2], torn, records[3]])

    with open_history(tmp_path) as history:
        hinted = history.execute("SELECT sequence, log_regular FROM log.facts ORDER BY ALL").fetchall()
        assert hinted == [(1, True), (2, True), (4, False)]
        assert history.execute("SELECT problem, sequence FROM fold_problems").fetchall() == [("gap", 4)]


def test_a_damaged_list_of_runs_is_no_reason_to_stop(tmp_path: Path, run):
    records = LogOfRecords().place([*run.events])
    with Archive(tmp_path) as archive:
        archive.append(records)
        path = tmp_path / "files" / archive.manifest.files[0].name
    path.write_bytes(b"junk")
    other = LogOfRecords(ends={("esper.runs", records[0].partition): 1}).place(Trainers("nur").events)

    with Archive(tmp_path) as archive:
        assert archive.append(other).rows == 1
    with open_history(tmp_path) as history:
        assert history.execute("SELECT run_id, log_regular FROM log.facts").fetchall() == [("nur", False)]
