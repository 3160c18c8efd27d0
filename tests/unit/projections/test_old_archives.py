"""An archive of an earlier Esper, whose facts have no verdicts, answers as that Esper did: as it lies, and migrated.

`kept/archive_v1` was written by that Esper's archiver out of `kept/v1.jsonl`; `answers.json` is what it answered.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.errors import CorruptState
from esper.record.accept import Verdict
from projections import open_history, questions
from projections.archive_writer import Archive
from projections.history import History
from projections.manifest import VERDICTS
from tests.unit.projections.keep_log import KEPT, plain

OLD = KEPT / "archive_v1"
WITHOUT_THE_VOID = {
    "03_from_decision_to_move": [["ppo", 9, 0, 0, 0]],
    "04_chain_of_a_run": [
        [1, "nothing", None, None, None, None],
        [2, "germinate s1 BP009", None, None, None, None],
        *([epoch, "nothing", None, None, None, None] for epoch in (3, 4, 5)),
    ],
    "06_final_accuracy": [["grown", 0.91, 1042], ["grown-control", 0.88, 1000]],
    "07_hook_latency": [["grown", 0.0, 5], ["grown-control", 0.0, 4]],
    "08_decision_latency": [["ppo", [0.001, 0.001], 9]],
    "15_decisions_by_kind": [["ppo", "nothing", 8], ["ppo", "germinate", 1]],
}
"""Then these counted what a rollback or a resume had cut, too: `grown` went through 8 epochs of which 5 survive."""
ADDED = {"isolation_violations": ("closed", "change", "change_stderr", "held"), "descent": ("candidate_descent",)}
"""What structs have got since then, each kind known by a field that it had: a seed's and the evidence's."""
EVERY = "select log_topic, log_partition, log_offset, log_raw from log.every order by all"


@pytest.fixture(scope="module")
def told() -> dict:
    """What it answered then."""
    return json.loads((OLD / "answers.json").read_text("utf-8"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the archive."""
    return Path(shutil.copytree(OLD / "archive", tmp_path / "archive"))


@pytest.fixture(params=["as it lies", "migrated"])
def history(request, old: Path) -> Iterator[History]:
    """The archive open, before and after its owner migrated it."""
    if request.param == "migrated":
        with Archive(old) as archive:
            assert archive.manifest.migrations == (VERDICTS,)
    with open_history(old) as found:
        assert (VERDICTS in found.manifest.migrations) == (request.param == "migrated")
        yield found


def test_it_answers_the_twenty_questions_as_then(history, told):
    parameters = {**told["parameters"], "event": bytes.fromhex(told["parameters"]["event"])}
    answers = {name: rows(questions.ask(history, name, **parameters)) for name in questions.names()}

    assert answers == told["questions"] | WITHOUT_THE_VOID


def test_its_views_show_what_they_showed(history, told):
    shown = {
        name: rows(history.execute(f"select {_COLUMNS.get(name, '*')} from {name} order by all"))
        for name in told["views"]
    }

    assert {name: len(found) for name, found in shown.items() if found} == {
        name: len(found) for name, found in told["views"].items() if found
    }
    assert shown == told["views"]


def test_its_runs_were_measured_by_their_accuracy(history):
    """Nothing declares a metric there."""
    ends = history.execute(
        "select name, unit, direction, value, main from metrics where measured_on = 'test' and surviving order by 4"
    )

    assert ends.fetchall() == [("accuracy", "%", "higher is better", value, True) for value in (88.0, 91.0)]
    assert (
        history.execute("select metric, metric_unit, test_metric = 100 * test_accuracy from runs").fetchall()
        == [("accuracy", "%", True)] * 2
    )
    assert (
        history.execute("select count(*) from metrics where measured_on = 'probe'").fetchone()
        == history.execute("select count(*) from epochs where probe_metric = 100 * probe_accuracy::double").fetchone()
    )


def test_every_fact_gets_the_verdict_that_the_archiver_gives_today(old, tmp_path):
    """Superseded and repeated facts are among them."""
    with open_history(old) as history:
        found = verdicts(history)
        raw = history.execute(EVERY).fetchall()
    with Archive(old) as archive:
        assert archive.manifest.migrations == (VERDICTS,)
        assert all((old / "files" / name).exists() for name in archive.manifest.retired)
    with open_history(old) as history:
        migrated = verdicts(history)
        assert history.execute(EVERY).fetchall() == raw

    assert found == migrated
    assert {verdict for *_, verdict in found} >= {Verdict.ACCEPTED, Verdict.VOID}


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"format": 2}, "format 2"), ({"migrations": [VERDICTS, "0002_later"]}, "migration 0002_later")],
    ids=["format", "migration"],
)
def test_what_a_newer_esper_made_of_an_archive_is_named_and_left_as_it_is(old, changed, named):
    """Nobody who goes back to this version is told to move a sound archive away."""
    path = old / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changed), "utf-8")
    before = {each: each.stat().st_mtime_ns for each in old.rglob("*")}

    for opened in (open_history, Archive):
        with pytest.raises(CorruptState, match=rf"newer Esper \({named}.*copied before it was upgraded") as refused:
            opened(old)
        assert "move it away" not in str(refused.value)
    assert {each: at for each, at in before.items() if each.name != "lock"} == {
        each: each.stat().st_mtime_ns for each in old.rglob("*") if each.name != "lock"
    }


def test_a_migration_that_is_broken_off_leaves_the_old_archive(old, monkeypatch):
    before = (old / "manifest.json").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("projections.manifest.Folder.write", fail)
    with pytest.raises(OSError, match="full"):
        Archive(old)
    monkeypatch.undo()

    assert (old / "manifest.json").read_bytes() == before
    with Archive(old) as archive:
        assert archive.set_aside > 0
        assert archive.drop_set_aside() == archive.set_aside
        assert archive.manifest.migrations == (VERDICTS,)


_COLUMNS = dict.fromkeys(("decisions", "commands"), "* exclude (surviving)")  # which they did not have then
_COLUMNS["reports"] = "* exclude (surviving, decision_id)"
_COLUMNS["epochs"] = "* exclude (metric, probe_metric, hook_contended_ms_before)"
_COLUMNS["seeds"] = "* exclude (opened_by, opened_epoch)"
_COLUMNS |= dict.fromkeys(("fold_state_at(25)", "fold_state_at(9999)"), "* exclude (metrics)")
_COLUMNS["runs"] = (
    "* exclude (paused, processes, static_of, metric, metric_unit, metric_direction, probe_metric, test_metric, "
    "task_file, random_seed, optimizer, learning_rate, rate_policy, weight_decay, batch_size, fork_step, fork_change, "
    "seeds_unproven, test_accuracy_without, test_loss_without) "
    "replace (case when run_id <> 'grown' then wall_s else 0 end as wall_s)"
)
"""Which had the last process's time, no pauses, processes, static runs, seeds in doubt, and metrics but accuracy."""


def verdicts(history: History) -> list[tuple]:
    query = "select log_partition, log_offset, log_verdict from log.facts order by all"
    found: list[tuple] = history.execute(query).fetchall()
    return found


def rows(answer) -> list[list]:
    return [[plain(as_then(value)) for value in row] for row in answer.fetchall()]


def as_then(value):
    """A value without the fields that it did not have then; they must be unset."""
    if isinstance(value, list):
        return [as_then(each) for each in value]
    if not isinstance(value, dict):
        return value
    added = [name for known, names in ADDED.items() if known in value for name in names]
    assert not any(value[name] for name in added)
    return {name: each for name, each in value.items() if name not in added}
