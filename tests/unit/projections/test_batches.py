"""Batches of the log become rows once, and what of the log cannot be read becomes a gap with a reason."""

from __future__ import annotations

from projections import manifest
from projections.addresses import Folder
from projections.archive_writer import Archive, Flushed
from projections.manifest import Gap
from projections.records import Batch, Unreadable, batches_of
from projections.wholeness import survey


def test_single_records_become_one_batch_per_partition(any_record):
    records = [any_record("run_resumed", offset) for offset in range(3)]
    other = any_record("decision_made", 0)

    found = batches_of([records[0], other, *records[1:]])

    assert [(batch.topic, batch.offsets) for batch in found] == [("esper.runs", [0, 1, 2]), ("esper.commands", [0])]
    assert found[0].at([2]).values == [records[2].value]


def test_batches_that_overlap_or_jump_are_taken_once_and_the_jump_is_named(tmp_path, any_record):
    """As a fetch after a restart may repeat some, and a log may have lost some."""

    def batch(*offsets: int) -> Batch:
        (made,) = batches_of([any_record("run_resumed", offset) for offset in offsets])
        return made

    with Archive(tmp_path) as archive:
        assert archive.take([batch(0, 1), batch(1, 2)]).rows == 3
        assert archive.take([batch(2), batch(2, 3, 6), batch(8)]).rows == 3
        assert archive.take([batch(3, 6)]).rows == 0
        assert archive.manifest.gaps == (Gap("esper.runs", 0, 4, 6), Gap("esper.runs", 0, 7, 8))
        assert archive.manifest.next_offsets == {("esper.runs", 0): 9}


def test_what_cannot_be_read_is_a_gap_with_its_reason_and_counts_as_archived(tmp_path, any_record):
    """Once, however often it is fetched; and the position moves, also where nothing sound follows."""
    (two,) = batches_of([any_record("run_resumed", offset) for offset in (0, 4)])
    torn = [Unreadable("esper.runs", 0, first, first + 1, "torn", "log/0.log") for first in (5, 6)]

    with Archive(tmp_path) as archive:
        done = archive.take([two, Unreadable("esper.runs", 0, 1, 4, "no record"), *torn])
        assert (done.rows, done.lost, done.unreadable) == (2, 5, 5)
        assert archive.take([Unreadable("esper.runs", 0, 1, 4, "no record"), *torn]) == Flushed(0, 0, 0)
        assert archive.take([Unreadable("esper.runs", 0, 7, 9, "torn", "log/0.log")]).unreadable == 2

    kept = manifest.load(tmp_path)
    assert kept.gaps == (Gap("esper.runs", 0, 1, 4), Gap("esper.runs", 0, 5, 9))
    assert kept.unreadable == (
        Unreadable("esper.runs", 0, 1, 4, "no record"),
        Unreadable("esper.runs", 0, 5, 9, "torn", "log/0.log"),
    )
    assert kept.next_offsets == {("esper.runs", 0): 9}
    assert [str(each) for each in survey(Folder.at(tmp_path), kept)] == [
        "esper.runs/0 offsets 1 to 3: damaged on the log: no record",
        "esper.runs/0 offsets 5 to 8: damaged on the log (log/0.log): torn",
    ]
