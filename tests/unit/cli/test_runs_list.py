"""`esper runs`: why a run failed, what a fork left, whose file a task is from, and that a process is gone."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from contracts.leyline.v1 import event_pb2 as e
from esper.cli.app import dispatch
from esper.cli.runs import sought
from esper.cli.serve import shown
from esper.errors import InvalidInput
from esper.leyline.envelope import new_event
from esper.weatherlight.alive import this_process
from projections import open_history
from projections.archive_writer import Archive
from projections.testing import LogOfRecords

AT_NS = 1_760_000_000_000_000_000


def fact(body, run_id: str, sequence: int, at: int, step: int = 0):
    event = new_event(
        body,
        event_id=f"{run_id}/{sequence}".encode()[-16:].rjust(16),
        run_id=run_id,
        producer="trainer",
        recorded_at_ns=AT_NS + at * 10**9,
        sequence=sequence,
        global_step=step,
    )
    event.incarnation = event.timeline = 1
    return event


@pytest.fixture
def folder(tmp_path):
    """A run of an own task that failed, a fork of it whose process is gone, and one that still lives."""
    own = json.dumps({"task": "my/mine.py:task"})
    gone, here = this_process(), this_process()
    gone.started_ticks += 1
    events = [
        fact(e.RunStarted(task="mine", policy="none", epochs=2, config_json=own), "aaaaaaaa", 1, 0),
        fact(e.RunFinished(status="failed", reason="RuntimeError: out of ideas"), "aaaaaaaa", 2, 1),
        fact(
            e.RunStarted(
                task="mine",
                policy="none",
                epochs=2,
                config_json=own,
                parent_run_id="aaaaaaaa",
                fork_change="cull s2",
                machine=e.Machine(process=gone),
            ),
            "bbbbbbbb",
            1,
            2,
            step=240,
        ),
        fact(e.RunStarted(task="digits", policy="none", machine=e.Machine(process=here)), "cccccccc", 1, 3),
    ]
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(events))
    return tmp_path


def test_the_list_says_what_a_run_is_and_why_it_ended(folder, capsys):
    assert dispatch(["runs", "--data-dir", str(folder)]) == 0

    _, lives, fork, failed = capsys.readouterr().out.splitlines()
    assert "digits" in lives
    assert "running" in lives
    assert "mine (my/mine.py:task), fork of aaaaaaaa at step 240: cull s2" in fork
    assert "died, last heard" in fork
    assert "mine (my/mine.py:task)  " in failed
    assert "failed: RuntimeError: out of ideas" in failed


def test_json_has_died_and_where_a_fork_began(folder, capsys):
    assert dispatch(["runs", "--json", "--data-dir", str(folder)]) == 0

    runs = {run["run_id"]: run for run in json.loads(capsys.readouterr().out)}
    assert [runs[name]["status"] for name in ("aaaaaaaa", "bbbbbbbb", "cccccccc")] == ["failed", "died", "running"]
    assert (runs["bbbbbbbb"]["fork_step"], runs["bbbbbbbb"]["fork_change"]) == (240, "cull s2")
    assert runs["aaaaaaaa"]["task_file"] == "my/mine.py:task"


def request(run_id: str, at: int, place: int):
    config = json.dumps({"task": "digits"})
    return fact(e.RunRequested(begin="start", config_json=config, place=place), run_id, 1, at)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Ten runs that completed, one a day, each with its control run; two that failed before; four that wait."""
    events = []
    for number in range(12):
        run_id, day = f"run-{number:02}", 86_400 * number
        task = "digits" if number % 2 else "spirals"
        events += [
            fact(e.RunStarted(task=task, policy="heuristic"), run_id, 1, day),
            fact(e.RunStarted(task=task, policy="none", control_of=run_id), f"{run_id}-control", 1, day + 1),
            fact(e.RunFinished(status="failed" if number < 2 else "completed"), run_id, 2, day + 2),
            fact(e.RunFinished(status="completed"), f"{run_id}-control", 2, day + 3),
        ]
    events += [request(f"wait-{number}", 2_000_000 + number, place=number) for number in range(4)]
    folder = tmp_path_factory.mktemp("many")
    with Archive(folder / "archive") as archive:
        archive.append(LogOfRecords().place(events))
    return folder


def listed(folder, capsys, *options):
    """The ids of a listing, and what it says of those that it leaves out."""
    assert dispatch(["runs", *options, "--data-dir", str(folder)]) == 0
    said = capsys.readouterr()
    if "--json" in options:
        return [run["run_id"] for run in json.loads(said.out)], said.err
    _, *rows = said.out.splitlines()
    left = rows.pop() if rows and rows[-1].startswith("left out") else ""
    return [row.split()[0] for row in rows], left


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["wait-3", "wait-2", "wait-1", "wait-0", *(f"run-{number:02}" for number in reversed(range(12)))]),
        (("--status", "failed"), ["run-01", "run-00"]),
        (("--status", "failed", "--task", "digits"), ["run-01"]),
        (("--status", "queued"), ["wait-3", "wait-2", "wait-1", "wait-0"]),
        (("--task", "spirals", "--since", "2025-10-18"), ["run-10"]),
        (("--since", "2025-10-20T08:53:20", "--status", "completed"), ["run-11"]),
        (("--since", "2025-10-20T10:53:20+02:00", "--status", "completed"), ["run-11"]),
        (("--status", "died", "--status", "queued", "--limit", "1"), ["wait-3"]),
    ],
)
def test_runs_are_found_by_task_status_and_time(many, capsys, options, expected):
    found, _ = listed(many, capsys, *options)

    assert found == expected


def test_the_newest_are_shown_and_how_many_were_left_out_is_said(many, capsys):
    assert listed(many, capsys, "--limit", "2") == (
        ["wait-3", "wait-2", "run-11", "run-10"],
        "left out: 10 older runs and 2 that wait; `esper runs --limit 0` shows all",
    )
    assert listed(many, capsys, "--limit", "12")[1] == ""
    found, told = listed(many, capsys, "--json", "--limit", "1")
    assert found == ["wait-3", "run-11-control", "run-11"]
    assert told == "esper: left out: 11 older runs and 3 that wait; `esper runs --limit 0` shows all\n"
    found, told = listed(many, capsys, "--json")
    assert (len(found), told) == (4 + 2 * 12, "")


def test_how_long_ago_is_a_time_of_now_and_what_is_none_is_named():
    now = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
    ago = {text: sought(None, "", (), text, as_json=True, now=now).since for text in ("90min", "1.5 h", "7d")}

    assert ago == {
        "90min": datetime(2026, 11, 30, 10, 30),  # noqa: DTZ001 - as the archive has it
        "1.5 h": datetime(2026, 11, 30, 10, 30),  # noqa: DTZ001
        "7d": datetime(2026, 11, 23, 12, 0),  # noqa: DTZ001
    }
    with pytest.raises(InvalidInput, match="--since 'yesterday' is no time: give how long ago, as 90min"):
        sought(None, "", (), "yesterday", as_json=True)
    with pytest.raises(InvalidInput, match="no run has status 'faild'; did you mean failed"):
        sought(None, "", ("faild",), "", as_json=True)


def test_who_died_is_told_from_who_runs(folder, capsys):
    assert listed(folder, capsys, "--status", "died")[0] == ["bbbbbbbb"]
    assert listed(folder, capsys, "--status", "running")[0] == ["cccccccc"]
    assert listed(folder, capsys, "--status", "running", "--status", "died")[0] == ["cccccccc", "bbbbbbbb"]
    assert listed(folder, capsys, "--task", "my/mine.py:task", "--limit", "1") == (
        ["bbbbbbbb"],
        "left out: 1 older run; `esper runs --limit 0` shows all",
    )


@pytest.fixture(scope="module")
def old_ones_go_on(tmp_path_factory):
    """Two runs that go on, one of which had ended before; one whose process is gone; then three that completed."""
    here, gone = e.Machine(process=this_process()), e.Machine(process=this_process())
    gone.process.started_ticks += 1
    resumed = fact(e.RunResumed(accepted_sequence=2, machine=here), "resumed", 3, 3)
    resumed.incarnation = 2
    events = [
        fact(e.RunStarted(task="digits", machine=here), "resumed", 1, 0),
        fact(e.RunFinished(status="interrupted"), "resumed", 2, 1),
        resumed,
        fact(e.RunStarted(task="digits", machine=here), "goes-on", 1, 4),
        fact(e.RunStarted(task="digits", control_of="goes-on", machine=here), "goes-on-control", 1, 5),
        fact(e.RunStarted(task="digits", machine=gone), "gone", 1, 6),
    ]
    for number in range(3):
        run_id = f"done-{number}"
        events += [
            fact(e.RunStarted(task="digits"), run_id, 1, 10 + number),
            fact(e.RunFinished(status="completed"), run_id, 2, 20 + number),
        ]
    folder = tmp_path_factory.mktemp("old")
    with Archive(folder / "archive") as archive:
        archive.append(LogOfRecords().place(events))
    return folder


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["running"], ["goes-on", "resumed"]),
        (["died"], ["gone"]),
        (["running", "died"], ["gone", "goes-on", "resumed"]),
        (["running", "died", "completed"], ["done-2", "done-1", "done-0", "gone", "goes-on", "resumed"]),
        (["running", "completed"], ["done-2", "done-1", "done-0", "goes-on", "resumed"]),
    ],
)
def test_what_goes_on_is_found_without_reading_what_is_over(old_ones_go_on, capsys, statuses, expected):
    options = [word for status in statuses for word in ("--status", status)]

    assert listed(old_ones_go_on, capsys, *options)[0] == expected


def test_mission_control_shows_the_newest_and_all_that_goes_on(old_ones_go_on, monkeypatch):
    monkeypatch.setattr(shown, "RUNS_SHOWN", 2)
    with open_history(old_ones_go_on / "archive") as history:
        told = shown.overview(history)

    assert [run["run_id"] for run in told["runs"]] == ["done-2", "done-1", "goes-on-control", "goes-on", "resumed"]
    assert told["runs_left_out"] == 2  # done-0, and gone
