"""`esper projections`: what there is, how far it is, and made anew, for people and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import duckdb
import pytest

from esper.cli.app import dispatch
from projections.archive_writer import Archive
from projections.registry import PROJECTIONS, file_of
from projections.testing import LogOfRecords, story
from tests.listening import Answers, listening


@pytest.fixture
def data_dir(tmp_path):
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(story()))
    return tmp_path


@pytest.fixture
def ask(data_dir, capsys):
    """Asks with `--json`; what is told."""

    def told(*arguments: str):
        assert dispatch(["projections", *arguments, "--json", "--data-dir", str(data_dir)]) == 0
        return json.loads(capsys.readouterr().out)

    return told


@pytest.fixture
def keeper(data_dir):
    """Another process that has a projection's file open."""
    started = []

    def keep(name: str) -> None:
        path = file_of(data_dir, PROJECTIONS[name])
        path.parent.mkdir(exist_ok=True)
        program = f"import duckdb; c = duckdb.connect({str(path)!r}); print('ready', flush=True); input()"
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"

    yield keep
    for process in started:
        process.communicate("\n", timeout=30)


def test_they_are_listed_and_rebuilt(ask, data_dir):
    before = {each["name"]: each for each in ask("list")}
    made = ask("rebuild", "all")
    after = {each["name"]: each for each in ask("list")}

    assert list(before) == ["urza", "experience"] == [each["projection"] for each in made]
    assert {each["state"] for each in before.values()} == {"absent"}
    assert {each["state"] for each in after.values()} == {"ready"}
    assert after["urza"]["applied"] == after["urza"]["migrations"] == ["0001_events"]
    assert (after["experience"]["owner"], after["urza"]["owner"]) == ("learner", "worker")
    assert all(each["events"] > 0 and each["refused"] == {} for each in made)
    with duckdb.connect(after["experience"]["file"], read_only=True) as plain:
        assert plain.execute("SELECT DISTINCT control_accuracy FROM experience WHERE run_id = 'grown'").fetchall() == [
            (0.88,)
        ]


def test_lag_is_what_the_archive_has_beyond_them(ask, data_dir):
    assert ask("rebuild", "experience")["events"] > 1
    before = {each["projection"]: each for each in ask("lag")}
    with Archive(data_dir / "archive") as archive:
        log = LogOfRecords()
        log.place(story())
        archive.append(log.place(event for event in story() if event.HasField("field_report")))
    after = {each["projection"]: each for each in ask("lag")}

    assert (before["experience"]["behind"], after["experience"]["behind"]) == (0, 1)
    assert (before["urza"]["state"], before["urza"]["behind"] > 0) == ("absent", True)
    assert before["urza"]["topics"].keys() == {"esper.blueprints", "esper.runs"}


def test_one_that_is_kept_is_asked_of_its_keeper(ask, data_dir, keeper):
    """As the worker's metrics have it; where nobody answers it is not known."""
    keeper("urza")
    unknown = {each["projection"]: each for each in ask("lag")}["urza"]

    class Metrics(Answers):
        def respond(self):
            self.reply(200, b'# TYPE x gauge\nesper_projection_lag_records{projection="urza"} 42.0\n')

    with listening(Metrics) as address:
        targets = [{"targets": [address.removeprefix("http://")], "labels": {"process": "worker"}}]
        (data_dir / "run").mkdir()
        (data_dir / "run" / "worker.json").write_text(json.dumps(targets))
        told = {each["projection"]: each for each in ask("lag")}["urza"]

    assert (unknown["state"], unknown["behind"]) == ("kept", None)
    assert (told["state"], told["behind"]) == ("kept", 42)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing", "there is no projection 'nothing'; there are urza, experience"),
        ("urza", "urza.duckdb is kept by a running process; stop it, or ask the archive instead"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(data_dir, keeper, capsys, name, says):
    keeper("urza")

    assert dispatch(["projections", "rebuild", name, "--data-dir", str(data_dir)]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_person_reads_tables(data_dir, capsys):
    assert dispatch(["projections", "rebuild", "urza", "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr().out.startswith("urza: ")
    assert dispatch(["projections", "lag", "--data-dir", str(data_dir)]) == 0
    assert "urza             0  ready" in capsys.readouterr().out
    assert dispatch(["projections", "list", "--data-dir", str(data_dir)]) == 0
    assert "not made yet" in capsys.readouterr().out


def test_a_damaged_archive_makes_no_projection(data_dir, capsys):
    file = next((data_dir / "archive" / "files").glob("field_report*"))
    file.write_bytes(file.read_bytes()[:-9] + b"destroyed")

    assert dispatch(["projections", "rebuild", "experience", "--data-dir", str(data_dir)]) == 2
    assert "cannot be made from a damaged archive" in capsys.readouterr().err
    assert not file_of(data_dir, PROJECTIONS["experience"]).exists()
