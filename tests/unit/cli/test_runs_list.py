"""`esper runs`: why a run failed, what a fork left, whose file a task is from, and that a process is gone."""

from __future__ import annotations

import json

import pytest

from contracts.leyline.v1 import event_pb2 as e
from esper.cli.app import dispatch
from esper.leyline.envelope import new_event
from esper.weatherlight.alive import this_process
from projections.archive_writer import Archive
from projections.testing import LogOfRecords

AT_NS = 1_760_000_000_000_000_000


def fact(body, run_id: str, sequence: int, at: int, step: int = 0):
    event = new_event(
        body,
        event_id=f"{run_id}/{sequence:<7}".encode(),
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
