"""`esper sql` answers one reading query, however large the answer, and changes nothing."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import islice

import psutil
import pytest

from contracts.leyline.v1.event_pb2 import TrainerProcess
from esper.cli.app import dispatch
from esper.cli.history import history_of
from esper.weatherlight.alive import this_process
from projections.ad_hoc import BLOCK, blocks_of
from projections.archive_writer import Archive
from projections.testing import LogOfRecords, Trainers


@pytest.fixture
def sql(tmp_path):
    """Asks a history in which nothing happened; the exit code."""
    (tmp_path / "archive").mkdir()
    return lambda *arguments: dispatch(["sql", *arguments, "--data-dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "the query has 0 statements"),
        (";", "the query has 0 statements"),
        ("select 1; select 2", "the query has 2 statements"),
        ("copy (select 1) to '{folder}/x.csv'", "`esper sql` only reads, and COPY does more"),
        ("attach '{folder}/x.db' as x", "`esper sql` only reads, and ATTACH does more"),
        ("export database '{folder}/x'", "`esper sql` only reads, and EXPORT does more"),
        ("drop view epochs", "`esper sql` only reads, and DROP does more"),
        ("selec", "the query is wrong: Parser Error"),
        ("from nowhere", "the query is wrong: Catalog Error"),
        ("from seedz", 'Did you mean "seeds"?'),
        ("select cast(if(range = 5000, 'x', '1') as int) from range(9000)", "the query is wrong: Conversion Error"),
    ],
)
def test_refuses_in_one_line(sql, tmp_path, capsys, query, says):
    assert sql(query.format(folder=tmp_path)) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.startswith("esper: ")
    assert said.count("\n") == 1 or "\nLINE 1: " in said
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize(("asked", "shown"), [("\\d\n", "one row per run"), ("\\d seeds;", "one row per seed slot")])
def test_what_the_shell_shows_is_shown_to_a_pipe_too(sql, capsys, monkeypatch, asked, shown):
    monkeypatch.setattr("sys.stdin", io.StringIO(asked))

    assert sql() == 0
    assert shown in capsys.readouterr().out.lower()


def test_the_place_of_a_mistake_is_shown(sql, capsys):
    assert sql("select lss from epochs") == 2

    _, line, caret = capsys.readouterr().err.splitlines()
    assert (line, caret) == ("LINE 1: select lss from epochs", "               ^^^")


@pytest.mark.parametrize("query", ["show tables", "describe epochs", "explain select 1", "pivot (select 1 a) on a"])
def test_whatever_reads_is_answered(sql, capsys, query):
    assert sql(query) == 0
    assert capsys.readouterr().err == ""


def test_no_rows_are_the_header_or_an_empty_list(sql, capsys):
    assert sql("select 1 as one where false") == 0
    assert sql("select 1 as one where false", "--json") == 0
    assert capsys.readouterr().out == "one\n[]\n"


def test_rows_of_every_block_come_once_and_in_line(sql, capsys):
    rows = 2 * BLOCK + 1
    query = f"select range as n, 'x' as x from range({rows})"
    assert sql(query) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["n", "x"]
    assert {line.index("x") for line in (header, *lines)} == {header.index("x")}
    assert [line.split() for line in lines] == [[str(n), "x"] for n in range(rows)]
    assert sql(query, "--json") == 0
    assert [row["n"] for row in json.loads(capsys.readouterr().out)] == list(range(rows))


def test_an_answer_larger_than_the_memory_begins_at_once(tmp_path):
    (tmp_path / "archive").mkdir()
    with history_of(tmp_path) as history:
        _, blocks = blocks_of(history, "select range from range(1_000_000_000_000)")
        assert [len(block) for block in islice(blocks, 2)] == [BLOCK, BLOCK]


def test_ctrl_c_ends_a_long_query_quietly(tmp_path):
    (tmp_path / "archive").mkdir()
    query = "select max(a.range + b.range) from range(1000000) a, range(10000000) b"
    command = [sys.executable, "-m", "esper.cli", "sql", query, "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while psutil.Process(process.pid).cpu_times().user < 2.0 and process.poll() is None:
            time.sleep(0.02)  # it opens the history in a quarter of that
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=5)
        finally:
            process.kill()
    assert (process.returncode, said) == (-signal.SIGINT, "")


def gone():
    """A process of this machine that has ended."""
    told = [
        sys.executable,
        "-c",
        "from esper.weatherlight.alive import *; print(this_process().SerializeToString().hex())",
    ]
    process = TrainerProcess.FromString(bytes.fromhex(subprocess.check_output(told, text=True)))
    assert process.boot == this_process().boot
    return process


@pytest.mark.parametrize(
    ("process", "shown", "told"),
    [
        (lambda: None, r"last heard \d+ days ago", None),  # of an older Esper
        (lambda: TrainerProcess(boot="of another machine", pid=1), r"last heard \d+ days ago", None),
        (this_process, "running", True),
        (gone, r"died, last heard \d+ days ago", False),
    ],
)
def test_of_a_run_that_says_nothing_any_more_it_is_said_whether_its_trainer_lives(
    process, shown, told, tmp_path, capsys
):
    events = Trainers("k3f9x2qa").events
    found = process()
    if found is not None:
        events[0].run_started.machine.process.CopyFrom(found)
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(events))

    assert dispatch(["runs", "--data-dir", str(tmp_path)]) == 0
    assert re.search(shown, capsys.readouterr().out)
    assert dispatch(["runs", "--json", "--data-dir", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["trainer_lives"] is told


def test_a_damaged_file_is_complained_of_once(tmp_path):
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(Trainers("k3f9x2qa").events))
    (path,) = (tmp_path / "archive" / "files").glob("run_started-*.parquet")
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    command = [sys.executable, "-m", "esper.cli", "runs", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("left out") == 1


def test_a_locale_without_a_sign_gets_a_question_mark(tmp_path):
    (tmp_path / "archive").mkdir()
    query = "select 'a · b' as sign"
    command = [sys.executable, "-m", "esper.cli", "sql", query, "--data-dir", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "sign\na ? b\n"


def test_a_log_without_its_archive_is_told_from_no_history(tmp_path, capsys):
    (tmp_path / "log").mkdir()
    assert dispatch(["runs", "--data-dir", str(tmp_path)]) == 2
    assert "has a log and no archive; `esper up` or the next run makes it" in capsys.readouterr().err
