"""The `esper` command: all commands under one name, and one line of a command line run to its exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Final

import typer

from esper import __version__
from esper.cli import WRONG_INPUT
from esper.cli.commands.alerts import alerts_app
from esper.cli.commands.archive import archive_app, projections_app
from esper.cli.commands.blueprints import blueprints_app
from esper.cli.commands.fleet import fleet_app
from esper.cli.commands.history import history_app
from esper.cli.commands.learn import learn_app
from esper.cli.commands.operations import operations_app
from esper.cli.commands.options import Group
from esper.cli.commands.policy import policy_app
from esper.cli.commands.sharing import sharing_app
from esper.cli.commands.training import training_app
from esper.cli.output import complain, complain_of
from esper.errors import EsperError

HELP: Final = """Neural networks that grow while they train, on a log of everything that happened.

Esper trains a network, and where it is too small a seed germinates: a small module learns beside the network, is
blended in step by step, and stays only if it helps. Every step of that is an event on a Kafka-compatible log.

\b
The parts, by their code names:
  Kasmina      the seeds inside the network and the stages of their lives
  Tolaria      the training loop
  Tamiyo       decides after every epoch what to grow, keep or remove
  Karn         the catalogue of blueprints that a seed can be grown from
  Leyline      the contracts: every event, its ids and its signature
  Oona         the log: topics, producers and consumers
  Nissa        metrics and alerts
  Weatherlight starts, watches and stops the processes
  Urza         the library of what was compiled from blueprints
  Tezzeret     compiles blueprints
  Simic        trains Tamiyo's policies, and promotes what passes gates

\b
Start with:
  esper run                 train digits with growth, and without beside it
  esper runs                what was run so far
  esper why last s1         why seed s1 did what it did
  esper blueprints list     what a seed can be grown from
  esper submit digits       ask for runs that any `esper work` trains
"""

app = typer.Typer(
    name="esper",
    cls=Group,
    help=HELP,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

for single in (training_app, fleet_app, history_app, sharing_app, operations_app):
    app.add_typer(single)
app.add_typer(alerts_app, name="alerts")
app.add_typer(archive_app, name="archive")
app.add_typer(blueprints_app, name="blueprints")
app.add_typer(policy_app, name="policy")
app.add_typer(projections_app, name="projections")
app.add_typer(learn_app, name="learn")


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every foreseen error becomes one line on stderr."""
    try:
        result = _invoke(arguments)
    except typer.TyperException as error:
        complain(f"{error.format_message().replace('Value error, ', '')} (see `{_help_command(error)}`)")
        return WRONG_INPUT
    except EsperError as error:
        complain_of(error)
        return WRONG_INPUT
    return result if isinstance(result, int) else 0


def _invoke(arguments: Sequence[str]) -> object:
    """What the command returns. Not by calling `app`: it makes an error of a reader that left (`esper ... | head`)."""
    command = _command()
    try:
        with command.make_context("esper", list(arguments)) as context:
            return command.invoke(context)
    except typer.Exit as done:
        return done.exit_code


@cache
def _command() -> Any:
    """Every command with its options, made of the functions' signatures once in a process: 25 ms."""
    return typer.main.get_command(app)


def _help_command(error: typer.TyperException) -> str:
    context: typer.Context | None = getattr(error, "ctx", None)
    return f"{context.command_path if context is not None else 'esper'} --help"


@app.callback(invoke_without_command=True)
def esper(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Print the version where that is asked for; everything else is a command's work."""
    if version:
        sys.stdout.write(f"esper {__version__}\n")
    elif context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")
