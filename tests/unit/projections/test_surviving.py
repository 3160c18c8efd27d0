"""What was derived from a void fact does not survive: decisions, commands, reports, alerts, wherever it is counted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from projections import open_history, questions
from projections.archive_writer import Archive
from projections.history import History
from projections.report import page
from projections.run_queries import EventReader
from projections.testing import RECORDED_AT_NS, LogOfRecords, Trainers
from projections.views import read_sql
from tests.unit.void_stretch import EVERY, RUN, SURVIVING, void_stretch

COUNTED = {
    "epochs": "from epochs",
    "decisions": "from decisions",
    "acted": "from decisions where chosen <> 'nothing'",
    "commands": "from commands",
    "reports": "from reports",
    "alerts": "select stands(a.run_id, a.causation_id, a.correlation_id) as surviving from log.alert_fired as a",
}
OUTCOMES = read_sql("outcomes")


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    """The run, archived in three flushes: tables of what is void are made anew as the log goes on."""
    records = LogOfRecords().place(void_stretch())
    with Archive(tmp_path) as archive:
        for start in range(0, len(records), 12):
            archive.append(records[start : start + 12])
    with open_history(tmp_path) as found:
        yield found


def counts(history: History, where: str) -> dict[str, int]:
    found = {}
    for name, query in COUNTED.items():
        ((found[name],),) = history.execute(f"select count(*) from ({query}) where {where}").fetchall()
    return found


def test_void_rows_are_marked_and_can_be_asked_for(history):
    assert counts(history, "surviving") == SURVIVING
    assert counts(history, "true") == EVERY


def test_a_command_is_what_the_surviving_timeline_made_of_it(history):
    """The first process's answer to the command for s1 was cut, the second's counts; the rollback undid s2's."""
    told = history.execute(
        "select seed_id, operation, outcome, outcome_step, surviving from commands order by log_offset"
    )

    assert told.fetchall() == [
        ("s1", "GERMINATE", "applied", 10, True),
        ("s1", "CULL", "applied", 30, False),
        ("s2", "GERMINATE", "applied", 30, False),
    ]


def test_what_tamiyo_learns_of_blueprints_has_no_void_report(history):
    told = history.execute(
        f"select blueprint_id, germinated, fossilized, culled, reports from ({read_sql('outcomes')})"
    )

    assert told.fetchall() == [("BP009", 1, 0, 0, 1)]


def test_a_follower_sees_what_becomes_void(tmp_path):
    """Open before the second process claims the run, which makes void what had survived."""
    records = LogOfRecords().place(void_stretch())
    with Archive(tmp_path) as archive:
        archive.append(records[:9])
        with open_history(tmp_path) as history:
            before = counts(history, "surviving")
            archive.append(records[9:])

            assert before["decisions"] == 2
            assert counts(history, "surviving") == SURVIVING


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("03_from_decision_to_move", [("heuristic", 3, 1, 1, 1)]),
        ("04_chain_of_a_run", [(1, "germinate s1 BP009", "GERMINATE", "s1", "applied", "GERMINATED")]),
        ("15_decisions_by_kind", [("heuristic", "nothing", 2), ("heuristic", "germinate", 1)]),
        ("07_hook_latency", [(RUN, 0.0, 3)]),
    ],
)
def test_questions_count_what_survives(history, question, answer):
    told = questions.ask(history, question, **({"run": RUN} if question.startswith("04") else {})).fetchall()

    assert [row for row in told if row[1] != "nothing" or not question.startswith("04")] == answer


def test_the_report_tells_what_survives(history):
    """Three epochs, so three decisions, one of them to act; no void alert, and no command that was undone."""
    told = " ".join(re.sub(r"<[^>]+>", " ", page(history, RUN)).split())

    assert "1 of 3 decisions were to do something" in told
    assert told.count("germinate s1") == 2, "the decision and its command"
    assert "cull s1" not in told
    assert "germinate s2" not in told
    assert "success, probe loss -0.5000 in 1 epoch" in told
    assert re.search(r"slow_hook 1 2.2", told), "one alert, in epoch 2"


def test_a_runs_time_is_that_of_its_processes(tmp_path):
    """The first was killed after a second, an hour passed, the second says what it took; what is void adds nothing."""
    run = Trainers("run")
    run.complete_epoch(0)
    run.resume(0, 0)
    run.complete_epoch(1)
    run.complete_epoch(0)  # of the first, which is void
    run.finish(1)
    second_ns, hour_ns = 10**9, 3_600 * 10**9
    for place, event in enumerate(run.events):
        event.recorded_at_ns = RECORDED_AT_NS + place * second_ns + (hour_ns if place > 1 else 0)
    run.events[-1].run_finished.wall_s = 30.5
    with Archive(tmp_path) as archive:
        places = LogOfRecords()
        archive.append(places.place(run.events[:-1]))
        with open_history(tmp_path) as history:
            assert history.execute("select wall_s from runs").fetchall() == [(2.0,)], "one second each so far"
            archive.append(places.place(run.events[-1:]))

            assert history.execute("select wall_s from runs").fetchall() == [(31.5,)]


def test_the_end_that_a_superseded_process_says_is_none(tmp_path):
    """`esper events --follow` ends with the run's own end."""
    run = Trainers("run")
    run.resume(0, 0)
    run.finish(0)
    with Archive(tmp_path) as archive:
        places = LogOfRecords()
        archive.append(places.place(run.events))
        with open_history(tmp_path) as history:
            events = EventReader(history, "run")
            before = events.finished()
            run.finish(1)
            archive.append(places.place(run.events[-1:]))

            assert not before
            assert events.finished()


def test_the_report_tells_each_process_what_it_computed_with(tmp_path):
    events = void_stretch()
    for event, processor in ((events[0].run_started, "cpu one"), (events[9].run_resumed, "cpu two")):
        event.machine.processor, event.machine.threads = processor, 3
    with Archive(tmp_path) as archive:
        archive.append(LogOfRecords().place(events))
    with open_history(tmp_path) as history:
        told = " ".join(re.sub(r"<[^>]+>", " ", page(history, RUN)).split())
        ((processes,),) = history.execute("select processes from runs").fetchall()

    assert "process 1, from step 0 cpu one, 3 threads process 2, from step 10 cpu two, 3 threads" in told
    assert [(each["incarnation"], each["machine"]["processor"]) for each in processes] == [
        (1, "cpu one"),
        (2, "cpu two"),
    ]
