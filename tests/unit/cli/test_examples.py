"""Every example in the help is a command line that the parser takes; none of them is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from esper.cli.app import HELP, app


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that name it."""
    if not getattr(command, "commands", None):
        yield path, command
        return
    for name, each in command.commands.items():
        yield from leaves(each, (*path, name))


COMMAND = typer.main.get_command(app)
COMMANDS = dict(leaves(COMMAND))


def example_of(command: Any) -> str:
    """The command line in a command's epilog."""
    return str(command.epilog).removeprefix("Example: ")


def parse(line: str) -> tuple[str, ...]:
    """The words that name the command of a line whose arguments and options exist and have values that they take."""
    program, *arguments = shlex.split(line)
    assert program == "esper", line
    command, path = COMMAND, ()
    context = command.make_context("esper", arguments)
    while getattr(command, "commands", None):
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        path = (*path, name)
        context = command.make_context(name, arguments, parent=context)
    return path


def test_the_commands_are_found():
    assert {("run",), ("archive", "status"), ("blueprints", "approve"), ("projections", "lag")} <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_example_of_a_command_is_one_of_its_own(path):
    assert parse(example_of(COMMANDS[path])) == path


@pytest.mark.parametrize("line", re.findall(r"^  (esper .*?)  ", HELP, re.MULTILINE))
def test_what_the_help_says_to_start_with_exists(line):
    assert parse(line) in COMMANDS


@pytest.mark.parametrize(
    "line",
    [
        "esper runz",
        "esper archive stauts",
        "esper run --sed 3",
        "esper run --policy greedy",
        "esper fork last --at 3",
        "esper why last",
        "esper state last --at 3 --load",
        "esper up --port 99999",
    ],
)
def test_what_is_no_command_line_is_found(line):
    with pytest.raises(typer.TyperException):
        parse(line)
