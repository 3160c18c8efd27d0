"""What `esper run`, `resume` and `fork` say at their end."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from contracts.leyline.v1 import event_pb2
from contracts.leyline.v1.event_pb2 import MetricValue
from esper.cli.run_view import RunView
from esper.cli.screen import Lines
from esper.cli.summary import Cost, Summary
from esper.cli.training import gone_since
from esper.metric import Figure
from projections import open_history
from projections.archive_writer import Archive
from projections.manifest import Gap
from projections.run_queries import EventReader
from projections.testing import LogOfRecords, Trainers
from tests.unit.void_stretch import void_stretch


def ended(run_id: str, status: str, accuracy: float) -> RunView:
    run = Trainers(run_id)
    run.complete_epoch(0)
    run.finish(0)
    run.events[-1].run_finished.status = status
    run.events[-1].run_finished.test_accuracy = accuracy
    return RunView.of(run_id, run.events)


@pytest.mark.parametrize(("status", "compared"), [("completed", True), ("interrupted", False), ("failed", False)])
def test_only_a_control_run_that_completed_is_compared(status, compared):
    """Of two that resume a run at once, one may win the grown run and the other, which then stops, its control run."""
    control = ended("k3f9-control", status, 0.5)
    cost = Cost(1.0, 0.5, 0.9, 2.0, 3.0)
    summary = Summary(ended("k3f9", "completed", 0.75), control, 0, {"p50": 1.0, "p99": 2.0}, cost, "esper-data")

    text = summary.text()

    assert ("+25.00 points" in text) == compared
    assert ("so it is left out" in text) != compared
    assert ("`esper resume k3f9` goes on with it" in text) == (status != "completed")
    assert summary.to_json()["control_val_accuracy"] == (0.5 if compared else None)


@pytest.mark.parametrize(
    ("status", "loss", "stderr", "growth", "said"),
    [
        ("completed", 0.5, 0.05, "paid", "growth paid: at equal FLOPs (2e+06 and 1.9e+06) a net that has the grown"),
        ("completed", 0.1, 0.05, "did not pay", "growth did not pay: at equal FLOPs (2e+06 and 1.9e+06) a net that"),
        ("completed", 0.5, 0.1, "within noise", "growth made no difference beyond noise: at equal FLOPs (2e+06 and"),
        ("interrupted", 0.5, 0.05, None, "the static run did not complete, so it is left out; `esper resume k3f9`"),
    ],
)
def test_growth_is_judged_against_the_static_net_of_as_many_flops(status, loss, stderr, growth, said):
    """The grown net's test loss is 0.3; two standard errors of the difference are 2.83 of the probe's own."""
    grown, static = ended("k3f9", "completed", 0.75), ended("k3f9-static", status, 0.7)
    for view, test_loss, flops in ((grown, 0.3, 2e6), (static, loss, 1.9e6)):
        view.finished.test_loss, view.finished.flops, view.probe_stderr = test_loss, flops, stderr
    static.finished.flops, static.finished.probe_flops = 2.0e6, 0.1e6  # its own probes are nothing that it needs
    cost = Cost(1.0, 0.5, 0.9, 2.0, 3.0)
    summary = Summary(grown, None, 0, {"p50": 1.0, "p99": 2.0}, cost, "esper-data", static=static)
    text, told = summary.text(), summary.to_json()

    assert said in text
    assert ("static" in text.splitlines()[3]) == (status == "completed")
    assert (told["growth"], told["static_run_id"]) == (growth, "k3f9-static")
    assert told["static_test_loss"] == (loss if growth else None)
    assert told["static_flops"] == (2.0e6 if growth else None)


def measured(run_id: str, mae: float, stderr: float | None = 0.01) -> RunView:
    view = ended(run_id, "completed", float("nan"))
    told = MetricValue(name="mae", unit="mm", lower_is_better=True, value=mae, stderr=stderr)
    view.finished.metrics.append(told)
    view.figures = [Figure("mae", "mm", True, mae)]
    return view


@pytest.mark.parametrize(
    ("static", "growth", "said"),
    [
        (0.5, "paid", "is worse (test mae 0.4000 mm grown, 0.5000 mm static, lower is better)"),
        (0.3, "did not pay", "is better (test mae 0.4000 mm grown, 0.3000 mm static, lower is better)"),
        (0.42, "within noise", "0.4200 mm static, lower is better; within 0.0283 mm is noise)"),
    ],
)
def test_a_regression_is_told_in_its_unit_and_a_lower_error_is_a_gain(static, growth, said):
    summary = Summary(
        measured("k3f9", 0.4),
        measured("k3f9-control", 0.52),
        0,
        {"p50": 1.0, "p99": 2.0},
        Cost(1.0, 0.5, 0.9, 2.0, 3.0),
        "esper-data",
        static=measured("k3f9-static", static),
    )
    text, told = summary.text(), summary.to_json()

    assert said in text
    assert "test mae (mm, lower is better) (+0.1200 mm better)" in text
    assert "accuracy" not in text
    assert "%" not in text
    assert told["metric"] == {"name": "mae", "unit": "mm", "direction": "lower is better"}
    assert (told["test_metric"], told["control_test_metric"], told["static_test_metric"]) == (0.4, 0.52, static)
    assert told["growth"] == growth
    assert math.isnan(told["val_accuracy"])  # which JSON writes as null


def test_a_worse_error_than_the_controls_is_no_gain():
    told = Summary(
        measured("k3f9", 0.6), measured("c", 0.5), 0, {"p50": 1.0, "p99": 2.0}, Cost(1.0, 0.5, 0.9, 2.0, 3.0), "d"
    )

    assert "(-0.1000 mm worse)" in told.text()


def test_a_gain_over_the_control_run_that_may_be_chance_is_said_to_be():
    """Two standard errors of the difference are 2.83 of one."""
    told = Summary(
        measured("k3f9", 0.48), measured("c", 0.5), 0, {"p50": 1.0, "p99": 2.0}, Cost(1.0, 0.5, 0.9, 2.0, 3.0), "d"
    )

    assert "(+0.0200 mm, within noise)" in told.text()


def test_without_a_standard_error_growth_is_judged_by_the_loss():
    grown, static = measured("k3f9", 0.4, None), measured("k3f9-static", 0.5, None)
    for view, loss in ((grown, 0.3), (static, 0.1)):
        view.finished.test_loss, view.probe_stderr = loss, 0.01
    told = Summary(grown, None, 0, {"p50": 1.0, "p99": 2.0}, Cost(1.0, 0.5, 0.9, 2.0, 3.0), "d", static=static)

    assert told.growth == "did not pay"
    assert "test loss 0.3000 grown, 0.1000 static" in told.text()


def test_a_seed_whose_germination_was_rolled_back_is_not_told_of():
    """Neither while it is shown nor at the end: the rollback went back behind its germination."""
    run = Trainers("run")
    run.complete_epoch(0)
    run.move(0, 0, 0)
    run.complete_epoch(0)
    run.roll_back(0, 2)
    view = RunView.of("run", run.events)

    assert (view.epoch, view.lives, view.seeds["s1"].stage) == (1, [], "DORMANT")

    run.complete_epoch(0)
    run.move(0, 1, 0)
    run.finish(0)
    text = Summary(
        RunView.of("run", run.events), None, 0, {"p50": 1.0, "p99": 2.0}, Cost(2.0, 0.5, 1.8, 9.0, 3.0), "esper-data"
    ).text()
    seeds = text.split("seeds\n")[1].splitlines()[:3]

    assert [line.split()[0] for line in seeds] == ["s2", "s1", "s3"]
    assert "s1 at layers.0 never germinated" in seeds[1]


def test_what_a_superseded_process_wrote_is_not_told_of():
    """A resume goes on from an earlier fact, and the process that was thought dead germinates another seed."""
    run = Trainers("run")
    run.complete_epoch(0)
    run.move(0, 0, 0)
    run.resume(0, 1)
    run.move(0, 1, 0)
    run.move(1, 2, 0)
    view = RunView.of("run", run.events)

    assert [life.seed_id for life in view.lives] == ["s3"]
    assert {seed.seed_id: seed.stage for seed in view.seeds.values()} == {
        "s1": "DORMANT", "s2": "DORMANT", "s3": "GERMINATED"
    }  # fmt: skip


def test_what_was_cut_is_not_shown():
    """A seed that germinated again after a resume is one life; decisions on packets that were cut are not the last."""
    view = RunView.of("void", void_stretch())

    assert [(life.seed_id, life.life) for life in view.lives] == [("s1", 1)]
    assert view.epoch == 3
    assert [(epoch, text.split(":")[0]) for epoch, text in view.decisions] == [
        (1, "germinate s1 residual_block (BP009)"),
        (2, "nothing"),
        (2, "rolled back"),
        (3, "nothing"),
    ]


def test_a_clock_that_is_behind_does_not_change_which_facts_count(tmp_path):
    """The process that was thought dead has the slower clock: its records seem older than the claim before them."""
    records = LogOfRecords().place(void_stretch())
    slow = [
        replace(record, timestamp=record.timestamp - 60_000) if 9 < place < 16 else record
        for place, record in enumerate(records)
    ]
    with Archive(tmp_path) as archive:
        archive.append(slow)
    with open_history(tmp_path) as history:
        view = RunView.of("void", EventReader(history, "void").new())

    assert [(life.seed_id, life.life, life.from_epoch) for life in view.lives] == [("s1", 1, 1)]
    assert view.finished is not None


def test_a_run_of_which_the_log_deleted_facts_is_told_as_it_went(tmp_path):
    """The archive's facts end at the gap: it showed a seed as germinated that was culled, and said that it had all."""
    run = Trainers("run")
    run.complete_epoch(0)
    run.move(0, 0, 0)
    run.complete_epoch(0)
    run.move(0, 0, 1)
    run.finish(0)
    records = LogOfRecords().place(run.events)
    with Archive(tmp_path) as archive:
        archive.append([*records[:3], *records[-1:]])
        gaps = archive.manifest.gaps
    with open_history(tmp_path) as history:
        archived = RunView.of("run", EventReader(history, "run").new())
    place = (records[0].topic, records[0].partition)

    view, lacks = archived.filled(RunView.of("run", run.events))
    text = Summary(
        view, None, 0, {"p50": 1.0, "p99": 2.0}, Cost(2.0, 0.5, 1.8, 9.0, 3.0), "esper-data", lost=lacks
    ).text()

    assert (archived.lives[0].stage, archived.finished) == ("GERMINATED", None)
    assert view.lives[0].stage != "GERMINATED"
    assert view.finished is not None
    assert view.events == len(run.events)
    assert lacks == len(run.events) - 4 == gone_since({place: 0}, gaps)
    assert "all in the archive" not in text
    assert f"{lacks} of them are not in the archive of" in text
    assert archived.filled(None) == (archived, 0)


def test_only_what_was_lost_since_the_run_began_is_counted():
    gaps = [Gap("t", 0, 2, 5), Gap("t", 0, 8, 12), Gap("t", 0, 20, 21), Gap("t", 1, 0, 99), Gap("other", 0, 0, 99)]

    assert gone_since({("t", 0): 10}, gaps) == 3
    assert gone_since({}, gaps) == 0


def test_an_archive_that_has_others_history_to_read_first_is_said_to(tmp_path):
    cost = Cost(1.0, 0.5, 0.9, 2.0, 3.0)
    summary = Summary(ended("k3f9", "completed", 0.75), None, 0, {"p50": 1.0, "p99": 2.0}, cost, "d", to_go=12_345)

    assert "the archive of d comes to them after 12,345 records" in " ".join(summary.text().split())
    skipped = replace(summary, to_go=0, gone=7)
    assert ", in the archive of d but for what the log did not give it at 7 offsets" in skipped.text()
    assert (summary.to_json()["records_to_archive"], summary.to_json()["records_lost"]) == (12_345, 0)


def test_what_is_told_of_a_deadline_that_passed_is_a_sentence(capsys):
    run = Trainers("run")
    run.complete_epoch(0)
    late = run.publish(run._trainer(0), event_pb2.DecisionTimedOut(packet_id=bytes(16), waited_ms=2_006))
    Lines([RunView("run", "grown")], quiet=False).show(RunView("run"), late)

    (line,) = capsys.readouterr().out.splitlines()
    assert line == "grown      decision: none came within 2.0 s, and the run went on; one that comes later is rejected"
