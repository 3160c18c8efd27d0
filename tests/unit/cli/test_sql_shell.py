"""`esper sql` where a person sits at a terminal, and where a pipe or nobody does."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import psutil
import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from esper.cli import shell
from esper.cli.app import dispatch
from esper.cli.history import history_of
from esper.cli.shell import SqlCompleter
from esper.errors import InvalidInput
from projections import open_sample, questions
from projections.ad_hoc import check_reads

DEADLINE_S = 120.0
COMMAND = [sys.executable, "-m", "esper.cli", "sql", "--sample"]
LONG = "select max(a.range + b.range) from range(1000000) a, range(10000000) b"


class Terminal:
    """The command on a terminal of its own: what is typed, and what has been seen so far."""

    def __init__(self, environment: dict[str, str]) -> None:
        here, there = pty.openpty()
        self.file = os.fdopen(here, "r+b", buffering=0)
        self.process = subprocess.Popen(
            COMMAND, stdin=there, stdout=there, stderr=there, env=environment, start_new_session=True
        )
        os.close(there)
        self.seen = ""

    def type(self, text: str) -> None:
        self.file.write(text.encode())

    def work(self, seconds: float) -> None:
        """Wait until the command has used so much more of the processor: it is in the middle of something."""
        process, deadline = psutil.Process(self.process.pid), time.monotonic() + DEADLINE_S
        enough = process.cpu_times().user + seconds
        while process.cpu_times().user < enough:
            assert time.monotonic() < deadline, "it does nothing"
            time.sleep(0.05)

    def until(self, pattern: str) -> str:
        """What was shown up to `pattern`, and forgotten afterwards."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, f"never saw {pattern!r} in {self.seen!r}"
            if select.select([self.file], [], [], 0.2)[0]:
                self.seen += self.file.read(4096).decode("utf-8", "replace")
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown


@pytest.fixture
def terminal(tmp_path):
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "xterm", "PAGER": "cat"}
    shown = Terminal(environment)
    yield shown
    shown.process.kill()
    shown.process.wait()
    shown.file.close()


def test_a_person_asks_errs_cancels_and_leaves(terminal, tmp_path):
    terminal.until("5 runs in ")
    terminal.type("select 6 *\r7 as answer;\r")
    assert "42" in terminal.until(r"\(1 row, [\d,]+ ms\)")
    terminal.type("selec 1;\r")
    terminal.until("esper: the query is wrong: Parser Error")
    terminal.type("drop view epochs;\r")
    terminal.until("only reads, and DROP does more")
    terminal.type("\\d gates\r")
    terminal.until("the figures that were judged")
    terminal.type("\\d gate\r")
    terminal.until("there is no view 'gate'; did you mean gates")
    terminal.type("\\x\r")
    terminal.until("there is no command")
    terminal.type(f"{LONG};\r")
    terminal.work(seconds=1.0)  # so that it is the query that is interrupted, and not the line that is cleared
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.until("esper: cancelled")
    terminal.type("select 'still here' as said;\r")
    terminal.until(r"\(1 row")
    terminal.type("\\q\r")

    assert terminal.process.wait(DEADLINE_S) == 0
    kept = (tmp_path / "state" / "esper" / "sql-history").read_text()
    assert "+select 6 *\n+7 as answer;" in kept
    assert (tmp_path / "state" / "esper" / "sql-history").stat().st_mode & 0o077 == 0


def test_a_query_ends_with_the_terminal_that_it_was_asked_at(terminal):
    """It is no terminal that controls the process, so no signal says that it has gone."""
    terminal.until("5 runs in ")
    terminal.type(f"{LONG};\r")
    terminal.work(seconds=0.3)
    terminal.file.close()

    assert terminal.process.wait(DEADLINE_S) == 0


@pytest.fixture(scope="module")
def completer():
    with open_sample() as history:
        yield SqlCompleter(history)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("select * from epo", "epochs"),
        ("from epochs as e select e.probe_a", "e.probe_accuracy"),
        ("from gates g select g.meas", "g.measurements"),
        ("select * from log.seed_tr", "log.seed_transitioned"),
        ("from seeds where sta", "stage"),
        ("select probe_l", "probe_loss"),
        ("sel", "select"),
        ("select quantile_c", "quantile_cont"),
        ("\\", "\\d"),
    ],
)
def test_completes(completer, typed, offered):
    found = [each.text for each in completer.get_completions(Document(typed), CompleteEvent())]

    assert offered in found
    assert len(found) == len(set(found))


def test_offers_the_columns_of_the_named_view_first_and_of_no_other(completer):
    typed = Document("from seeds select s")
    found = [each.text for each in completer.get_completions(typed, CompleteEvent())]

    assert found[:3] == ["seed_id", "site", "stage"]
    assert "samples_per_s" not in found


def test_offers_nothing_before_anything_is_typed(completer):
    assert list(completer.get_completions(Document(""), CompleteEvent())) == []
    assert list(completer.get_completions(Document(""), CompleteEvent(completion_requested=True))) != []


def test_a_pipe_is_the_query(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("select count(*) as runs\nfrom runs;\n"))

    assert dispatch(["sql", "--sample", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"runs": 5}]


def test_a_reader_that_has_gone_is_no_failure():
    """As in `esper sql ... | head -1`."""
    with subprocess.Popen([*COMMAND, "from events, range(100)"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ran:
        ran.stdout.readline()
        ran.stdout.close()

        assert (ran.wait(DEADLINE_S), ran.stderr.read()) == (0, b"")


def test_nothing_but_the_answer_is_on_stdout_of_a_long_query():
    """DuckDB draws a progress bar after two seconds where it may."""
    with history_of(questions.folder()) as history:
        assert history.execute("select current_setting('enable_progress_bar')").fetchone() == (False,)


def test_schema_lists_explains_and_refuses(capsys):
    assert dispatch(["sql", "--sample", "--schema"]) == 0
    assert "One row per epoch that a run completed" in capsys.readouterr().out
    assert dispatch(["sql", "--sample", "--schema", "epochs"]) == 0
    assert re.search(r"probe_loss +FLOAT +nats +mean loss on the probe set", capsys.readouterr().out)
    assert dispatch(["sql", "--sample", "--schema", "epochs", "--json"]) == 0
    (relation,) = json.loads(capsys.readouterr().out)
    assert {"name": "probe_loss", "type": "FLOAT", "meaning": "mean loss on the probe set", "unit": "nats"} in relation[
        "columns"
    ]
    assert dispatch(["sql", "--sample", "--schema", "epoch"]) == 2
    assert "did you mean epochs?" in capsys.readouterr().err


def test_what_a_shell_may_do_is_what_a_query_may(tmp_path):
    """The shell and the command line refuse with the same function."""
    with pytest.raises(InvalidInput, match="only reads"):
        check_reads(f"copy (select 1) to '{tmp_path}/x.csv'")


@pytest.mark.parametrize("writable", [True, False])
def test_where_nothing_can_be_kept_the_shell_remembers_by_itself(tmp_path, monkeypatch, writable):
    state = tmp_path / "state"
    if not writable:
        state.write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    shell.remembered().append_string("from runs;")

    assert list(shell.remembered().load_history_strings()) == (["from runs;"] if writable else [])
