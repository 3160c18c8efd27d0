"""A terminal obeys nothing that stands in a history: what comes from events is written out."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from esper.cli.app import dispatch
from esper.cli.output import complain, one_line, say, say_table, styled, table, visible
from esper.cli.run_view import RunView
from esper.cli.screen import Panel
from esper.cli.summary import Cost, Summary
from projections.archive_writer import Archive
from projections.testing import LogOfRecords

EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[8mhidden\x9b31m\x85\x7f\u202e\u2066<script>alert(1)</script>\r\nesper: all is well"
KEPT = {
    *("run_id", "control_of", "parent_run_id", "seed_id", "target_seed_id", "blueprint_id", "command_id", "status"),
    *("config_json", "packet_id", "group", "actions"),
}
OWN = re.compile(r"\x1b\[(0|1|2|31|32|33|36)m")
FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
COMMANDS = (
    ["runs"],
    ["events", "last"],
    ["why", "last", "s1"],
    ["state", "last"],
    ["state", "last", "--at", "epoch:1"],
    ["diff", "last", "last"],
    ["sql", "from runs"],
    ["sql", "select *, [task], {'a': task} as more from runs"],
    ["sql", "select chr(27) || '[2J' as \"\x1b[2J\", log_raw from log.every"],
    ["sql", "select error(chr(27) || '[2J')"],
    ["sql", "select \x1b[2J"],
    ["archive", "status"],
    ["archive", "verify"],
    ["projections", "list"],
    ["blueprints", "history", "BP009"],
    ["export", "last", "--to", "FOLDER"],
    ["why", "last", "\x1b[2J"],
    ["events", "\x1b[2J"],
    ["events", "last", "--type", "\x1b[2J"],
    ["\x1b[2J"],
    ["runs", "--data-dir", "\x1b[2J\n\u202e"],
    ["verify", "\x1b[2J"],
)


class Terminal(io.StringIO):
    """A stdout that says of itself that it is a terminal."""

    def isatty(self) -> bool:
        return True


def spoil(message: Any) -> None:
    """Put what a terminal obeys into every text of a message."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            if field.message_type.GetOptions().map_entry:
                continue
            for each in value if field.is_repeated else [value]:
                spoil(each)
        elif field.type == field.TYPE_STRING and field.name not in KEPT:
            if field.is_repeated:
                value[:] = [each + EVIL for each in value]
            else:
                setattr(message, field.name, value + EVIL)


@pytest.fixture
def spoilt(story):
    for event in story:
        spoil(event)
        if event.HasField("seed_transitioned"):
            event.seed_transitioned.reason = EVIL
    return story


@pytest.fixture
def archived(tmp_path: Path, spoilt) -> Path:
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(spoilt))
    return tmp_path


def check(text: str, *, own_styles: bool) -> None:
    assert not FORBIDDEN.search(OWN.sub("", text) if own_styles else text), ascii(text)
    assert not any(line.startswith("esper: all is well") for line in text.split("\n")), text


@pytest.mark.parametrize("terminal", [False, True])
def test_no_command_passes_on_what_a_terminal_obeys(archived, terminal, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    said = ""
    for number, command in enumerate(COMMANDS):
        out, err = Terminal() if terminal else io.StringIO(), io.StringIO()  # on which rich would draw its bars
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        where = [] if "--data-dir" in command or command[0] == "verify" else ["--data-dir", str(archived)]
        dispatch([*(str(tmp_path / f"out{number}") if word == "FOLDER" else word for word in command), *where])
        text = out.getvalue() + err.getvalue()
        said += text

        check(text, own_styles=terminal)
    assert said.count(r"\x1b]0;owned\x07") > 5
    assert r"\u202e" in said


def test_json_says_the_same_and_stays_json(archived, capsys) -> None:
    for command in (["runs"], ["events", "last"], ["state", "last"], ["sql", "from runs"]):
        assert dispatch([*command, "--json", "--data-dir", str(archived)]) == 0
        text = capsys.readouterr().out

        assert not FORBIDDEN.search(text)
        assert all(json.loads(line) for line in text.splitlines())
        assert "owned" in text


def test_the_report_shows_it_as_text(archived, tmp_path) -> None:
    assert dispatch(["report", "last", "--to", str(tmp_path / "r.html"), "--data-dir", str(archived)]) == 0
    page = (tmp_path / "r.html").read_text("utf-8")

    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_the_live_screen_and_the_summary_write_it_out(spoilt) -> None:
    view = RunView.of("k3f9x2qa", spoilt)
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(Panel(f"task {EVIL}", [view]).draw(1.0))
    check(console.file.getvalue(), own_styles=False)  # type: ignore[attr-defined]
    summary = Summary(view, None, 0, {"p50": 1.0, "p99": 2.0}, Cost(1.0, 1.0, 1.0, 1.0, 1.0), f"/data{EVIL}")

    assert "all is well" in summary.text()
    assert not any(line.startswith("esper: all is well") for line in summary.text().split("\n")[:3])


def test_our_own_styles_stay_and_a_strangers_do_not(monkeypatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal())

    assert visible(styled("x", "1", "32")) == "\x1b[1;32mx\x1b[0m"
    assert visible("\x1b[8mx\x1b[38;5;1m") == r"\x1b[8mx\x1b[38;5;1m"
    assert visible("ä 漢字 \u00a0 👩\u200d🔬\n\t") == "ä 漢字 \u00a0 👩\u200d🔬\n\t"
    assert one_line("a\nb\tc\r") == r"a\nb c\r"


def test_every_way_out_writes_it_out(capsys) -> None:
    say(EVIL)
    complain(EVIL)
    say_table(("a",), [[(EVIL,)], [(EVIL,)]])
    say(table(("a",), [(EVIL,)]))
    told = capsys.readouterr()

    assert not FORBIDDEN.search(told.out + told.err)
