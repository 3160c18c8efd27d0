"""What the command prints on a terminal of 80 or 120 columns: whole words, in lines that fit."""

from __future__ import annotations

import io
import re
import sys
from functools import cache

import pytest
import typer
from rich.console import Console

from esper.cli.app import app, dispatch
from esper.cli.output import say
from esper.cli.run_view import RunView
from esper.cli.screen import Panel
from esper.cli.summary import Cost, Summary
from projections import open_sample
from projections.questions import folder, grown_run
from projections.run_queries import EventReader, run_ids

WIDTHS = (80, 120)
DRAWN = set("│├└─━╸╺╭╮╰╯…")
COMMANDS = (
    ["runs"],
    ["events", "RUN"],
    ["why", "RUN", "s1"],
    ["state", "RUN"],
    ["diff", "RUN", "last"],
    ["blueprints", "list"],
    ["blueprints", "list", "--outcomes"],
    ["blueprints", "show", "BP009"],
    ["blueprints", "history", "BP009"],
    ["projections", "list"],
    ["archive", "status"],
    ["sql", "--schema"],
    ["sql", "--schema", "epochs"],
    ["sql", "from epochs limit 3"],
)


class Terminal(io.StringIO):
    """A stdout that says of itself that it is a terminal."""

    def isatty(self) -> bool:
        return True


@cache
def the_command():
    """The whole command: it takes a tenth of a second to make."""
    return typer.main.get_command(app)


def helps():
    """Every command line that shows a help."""
    yield []
    for name, command in the_command().commands.items():
        yield [name]
        yield from ([name, inner] for inner in getattr(command, "commands", {}))


def words(text: str) -> set[str]:
    return {word for word in text.split() if not set(word) <= DRAWN}


def fits(text: str, width: int) -> list[str]:
    """The lines that are too long, but for those that are one word."""
    return [line for line in text.splitlines() if len(line) > width and len(line.split()) > 1]


@pytest.fixture(scope="module")
def run_id():
    with open_sample() as history:
        return grown_run(history)


@pytest.fixture
def shown(monkeypatch):
    """What a call writes to stdout, on a terminal of so many columns or, for None, into a file."""

    def show(call, width: int | None) -> str:
        stdout = Terminal() if width else io.StringIO()
        with monkeypatch.context() as patched:
            patched.setenv("NO_COLOR", "1")
            patched.setenv("COLUMNS", str(width or 80))
            patched.setattr(sys, "stdout", stdout)
            call()
        return re.sub(r"\x1b\[[0-9;]*m", "", stdout.getvalue())

    return show


@pytest.fixture(scope="module")
def whole_of():
    """What a command writes into a file, once for all widths."""
    written = {}

    def whole(arguments, write):
        if arguments not in written:
            written[arguments] = write()
        return written[arguments]

    return whole


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_breaks_no_word(arguments, width, run_id, shown, whole_of):
    line = [run_id if word == "RUN" else word for word in arguments]

    def call():
        assert dispatch([*line, "--data-dir", str(folder())]) in {0, 1}

    text, whole = shown(call, width), whole_of(tuple(arguments), lambda: shown(call, None))

    assert fits(text, width) == []
    assert words(text) ^ words(whole) == set()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("arguments", list(helps()), ids=lambda words: " ".join(words) or "esper")
def test_a_help_breaks_no_word(arguments, width):
    def text(columns: int) -> str:
        command = the_command()
        with command.make_context("esper", [], resilient_parsing=True, terminal_width=columns) as top:
            for name in arguments:
                command = command.commands[name]
            context = typer.Context(command, top, " ".join(arguments), terminal_width=columns) if arguments else top
            return command.get_help(context)

    assert fits(text(width), width) == []
    assert words(text(width)) ^ words(text(1_000)) == set()


@pytest.fixture
def view(run_id):
    with open_sample() as history:
        return RunView.of(run_id, EventReader(history, run_id).new())


@pytest.mark.parametrize("width", WIDTHS)
def test_the_summary_breaks_no_word(view, width, shown):
    summary = Summary(view, None, 0, {"p50": 3.0, "p99": 5.0}, Cost(2.0, 0.5, 1.8, 9.0, 12.0), "esper-data")
    text, whole = (shown(lambda: say(summary.text()), columns) for columns in (width, None))

    assert fits(text, width) == []
    assert words(text) == words(whole)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_panel_breaks_no_word(view, width):
    def text(columns: int) -> str:
        console = Console(file=io.StringIO(), width=columns)
        console.print(Panel("esper run k3f9x2qa · digits · heuristic", [view]).draw(3.0))
        return re.sub(r"[━╸╺]+", "", console.file.getvalue())

    assert fits(text(width), width) == []
    assert words(text(width)) == words(text(1_000))


def test_a_broken_word_would_be_found(shown):
    text = shown(lambda: sys.stdout.write("a semi-\nconductor\n"), 80)

    assert words(text) ^ words("a semi-conductor") != set()
    assert fits("x " * 60, 80) != []
    assert run_ids
