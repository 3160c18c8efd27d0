"""The verdict on every fact, as it is archived: whatever was archived between, and however often begun anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline.envelope import Event, body_name, body_of
from esper.record.accept import Fact, Tally, Verdict
from projections import open_history, verdicts
from projections.archive_writer import Archive
from projections.testing import LogOfRecords, Trainers


@pytest.fixture
def run() -> Trainers:
    """A run with an epoch."""
    trainers = Trainers("run")
    trainers.complete_epoch(0)
    return trainers


def fact(event: Event) -> Fact:
    return Fact(event.run_id, body_name(event), event.event_id, event.incarnation, event.sequence, body_of(event))


def judged(events: list[Event]) -> list[Verdict]:
    tally = Tally("run")
    return [tally.take(fact(event)) for event in events]


def archived(folder: Path) -> list[int]:
    with open_history(folder) as history:
        found = history.execute("SELECT log_verdict FROM log.facts ORDER BY log_partition, log_offset").fetchall()
    return [verdict for (verdict,) in found]


def test_a_repetition_is_one_whatever_it_repeats(run):
    """Every event is there once without `REPEATED`: also one that was void, or that a claim has cut since."""
    run.move(0, 0, 0)
    run.resume(0, 1)
    run.move(0, 1, 0)
    run.events += [run.events[4], run.events[2], run.events[1]]

    assert judged(run.events) == [
        *[Verdict.ACCEPTED] * 4, Verdict.VOID, Verdict.REPEATED, Verdict.REPEATED, Verdict.REPEATED
    ]  # fmt: skip


def test_nothing_counts_after_a_fact_that_cannot_be_true(run):
    run.lose(0)
    run.complete_epoch(0)
    run.repeat(4)

    assert judged(run.events)[2:] == [Verdict.GAP, Verdict.AFTER_STOP, Verdict.REPEATED]


@pytest.mark.parametrize("remembered", [1, 2**20])
def test_runs_that_were_forgotten_are_counted_again(tmp_path, monkeypatch, remembered):
    """Three runs take turns, a flush each; with room for one tally every turn begins from the archived facts."""
    monkeypatch.setattr(verdicts, "REMEMBERED_BYTES", remembered)
    runs = [Trainers(f"run-{number}") for number in range(3)]
    places = LogOfRecords()
    told = [0] * 3
    with Archive(tmp_path) as archive:
        for turn in range(5):
            for number, run in enumerate(runs):
                run.complete_epoch(0) if turn != 3 else run.roll_back(0, 1)
                run.move(0, turn, 0)
                archive.append(places.place(run.events[told[number] :]))
                told[number] = len(run.events)

    assert archived(tmp_path) == [Verdict.ACCEPTED] * sum(told)


def test_many_runs_that_go_on_are_counted_in_one_reading(tmp_path, monkeypatch):
    """After a restart of the archiver, say; each by itself went through every file."""
    runs = [Trainers(f"run-{number}") for number in range(30)]
    places = LogOfRecords()
    with Archive(tmp_path) as archive:
        archive.append(places.place([event for run in runs for event in run.events]))
    before = [len(run.events) for run in runs]
    for run in runs:
        run.complete_epoch(0)
    asked: list[int] = []
    answer = verdicts.archived_facts
    monkeypatch.setattr(
        "projections.archive_writer.archived_facts",
        lambda folder, entries, run_ids: asked.append(len(run_ids)) or answer(folder, entries, run_ids),
    )
    with Archive(tmp_path) as archive:
        going_on = [run.events[first:] for run, first in zip(runs, before, strict=True)]
        archive.append(places.place([event for events in zip(*going_on, strict=True) for event in events]))

    assert asked == [30]
    assert archived(tmp_path) == [Verdict.ACCEPTED] * sum(len(run.events) for run in runs)


def test_the_run_that_was_seen_longest_ago_is_forgotten_first(monkeypatch):
    """It was the one that was seen first: a long run among short ones was counted again and again."""
    monkeypatch.setattr(verdicts, "REMEMBERED_BYTES", 3 * Tally("run").size)
    asked: list[str] = []
    judge = verdicts.Verdicts(None, lambda run_ids: asked.extend(run_ids) or ())
    for run_id in ("long", "a", "long", "b", "long", "c", "long", "d", "long"):
        judge.expect([run_id])
        judge.trim()

    assert asked == ["long", "a", "b", "c", "d"]


def test_a_start_that_comes_again_after_a_restart_is_a_repetition(tmp_path, run):
    records = LogOfRecords().place([*run.events, run.events[0]])
    with Archive(tmp_path) as archive:
        archive.append(records[:2])
    with Archive(tmp_path) as archive:
        archive.append(records[2:])

    assert archived(tmp_path) == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.REPEATED]


def test_a_run_whose_start_never_came_stays_stopped_after_a_restart(tmp_path, run):
    records = LogOfRecords().place([run.events[1], run.events[0]])
    for record in records:
        with Archive(tmp_path) as archive:
            archive.append([record])
    with Archive(tmp_path) as archive:
        assert archive.manifest.unstarted == ("run",)

    assert archived(tmp_path) == [Verdict.NOT_STARTED, Verdict.AFTER_STOP]


def test_a_fact_that_cannot_be_read_is_a_gap(tmp_path, run):
    run.train(0)
    run.train(0)
    records = LogOfRecords().place(run.events)
    torn = replace(records[2], value=records[2].value.replace(b"host", b"h\xffst"))
    with Archive(tmp_path) as archive:
        archive.append([*records[:2], torn, records[3]])

    assert archived(tmp_path) == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.GAP]


def test_what_a_damaged_file_would_tell_is_left_to_the_reader(tmp_path, run):
    """The archiver goes on, and the run's next facts are judged by a reader, which stops the run at what is missing."""
    places = LogOfRecords()
    with Archive(tmp_path) as archive:
        archive.append(places.place(run.events))
        (tmp_path / "files" / archive.manifest.of("epoch_completed")[0].name).write_bytes(b"junk")
    run.train(0)
    with Archive(tmp_path) as archive:
        archive.append(places.place(run.events[2:]))
        assert archive.manifest.undecided == ("run",)

    with open_history(tmp_path) as history:
        assert history.execute("SELECT problem, sequence FROM stops").fetchall() == [("gap", 3)]


def fail(*_: object) -> None:
    raise OSError("the disk is full")


def test_a_flush_that_failed_is_judged_again(tmp_path, run, monkeypatch):
    records = LogOfRecords().place(run.events)
    with Archive(tmp_path) as archive:
        with monkeypatch.context() as patched:
            patched.setattr("projections.manifest.save", fail)
            with pytest.raises(OSError, match="full"):
                archive.append(records)
        archive.append(records)

    assert archived(tmp_path) == [Verdict.ACCEPTED, Verdict.ACCEPTED]
