"""The commands of `esper projections`, their options and their help."""

from __future__ import annotations

from typing import Annotated

import typer

from esper.cli.options import DATA_DIR, AsJson, DataDir

projections_app = typer.Typer(help="Tables folded from the log into DuckDB files: what there is, how far it is, made anew.")


@projections_app.command("list", epilog="Example: esper projections list")
def list_projections(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> None:
    """All projections: what they hold, which process keeps them, their state and migrations. Needs nothing running."""
    from esper.cli.projections.commands import list_command  # noqa: PLC0415

    list_command(data_dir, as_json=as_json)


@projections_app.command(epilog="Example: esper projections rebuild experience")
def rebuild(
    name: Annotated[str, typer.Argument(help="A projection, as `list` names it, or `all`.", metavar="NAME")],
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> None:
    """Make a projection anew out of the archive alone; the old file serves until the new one is whole.

    The file is a DuckDB database: open it with any tool, one process at a time. Needs nothing running.
    """
    from esper.cli.projections.commands import rebuild_command  # noqa: PLC0415

    rebuild_command(data_dir, name, as_json=as_json)


@projections_app.command(epilog="Example: esper projections lag --json")
def lag(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> None:
    """How many records each projection lacks, against the archive; of one that is being kept, its keeper says it."""
    from esper.cli.projections.commands import lag_command  # noqa: PLC0415

    lag_command(data_dir, as_json=as_json)
