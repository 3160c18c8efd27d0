"""When `esper events --follow` ends: once the run is over, however often it was interrupted before."""

from __future__ import annotations

from contracts.leyline.v1 import event_pb2 as pb
from esper.cli.events import CHATTER, types_of
from projections import open_history
from projections.archive_writer import Archive
from projections.run_queries import EventReader
from projections.testing import LogOfRecords, Trainers


def test_a_run_that_was_resumed_is_followed_to_its_own_end(tmp_path):
    run, log, told = Trainers("aaaa"), LogOfRecords(), 0
    over = []
    with Archive(tmp_path) as archive, open_history(tmp_path) as history:
        reading = EventReader(history, "aaaa")
        for happens in (
            lambda: run.complete_epoch(0),
            lambda: run.publish(run.trainers[0], pb.RunFinished(status="interrupted")),
            lambda: run.resume(0, 1),
            lambda: run.complete_epoch(1),
            lambda: run.finish(1),
        ):
            happens()
            archive.append(log.place(run.events[told:]))
            told = len(run.events)
            over.append(reading.finished())

        assert over == [False, True, False, False, True]
        assert len(list(reading.new())) == len(run.events)


def test_the_librarys_chatter_is_left_out_unless_it_is_asked_for():
    shown = types_of([], CHATTER)

    assert {"kernel_prefetch_request", "kernel_artifact_error", "compile_requested"} <= CHATTER
    assert CHATTER.isdisjoint(shown)
    assert {"run_started", "kernel_attached", "seed_transitioned"} <= set(shown)
    assert types_of(["kernel_artifact_error"], CHATTER) == ("kernel_artifact_error",)
    assert set(types_of([])) == set(shown) | CHATTER


def test_a_run_without_an_event_is_not_over(tmp_path):
    (tmp_path / "archive").mkdir()
    with open_history(tmp_path / "archive") as history:
        assert not EventReader(history, "aaaa").finished()
