"""What is handed on: a run as a page, as a folder, and the check that a folder is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esper.cli.options import DATA_DIR, AsJson, DataDir, Run

@app.command(epilog="Example: esper report last --to run.html")
def report(
    run: Run,
    data_dir: DataDir = DATA_DIR,
    *,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="The file to write; esper-report-RUN.html by default.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A run as one web page that needs no network: curves beside the control run, seeds, decisions, gates, cost."""
    from esper.cli.report import report_command  # noqa: PLC0415

    report_command(data_dir, run, to, as_json=as_json)


@app.command(epilog="Example: esper export last --to for-ada --with-objects")
def export(
    run: Run,
    data_dir: DataDir = DATA_DIR,
    *,
    to: Annotated[
        Path | None, typer.Option("--to", help="The folder to make; esper-export-RUN by default.", show_default=False)
    ] = None,
    with_objects: Annotated[
        bool, typer.Option("--with-objects", help="Also what a replay needs: checkpoints, digests, long observations.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """A run's whole history as one folder without keys, that anybody can ask with plain DuckDB and verify.

    Its control run comes along, and the runs that it was forked from. Nothing is overwritten.
    """
    from esper.cli.share import export_command  # noqa: PLC0415

    export_command(data_dir, run, to, with_objects=with_objects, as_json=as_json)


@app.command(epilog="Example: esper verify esper-export-k3f9x2qa")
def verify(
    folder: Annotated[Path, typer.Argument(help="A folder that `esper export` made.", metavar="FOLDER")],
    *,
    as_json: AsJson = False,
) -> int:
    """Check that an exported folder holds what was exported: exit code 0 where it does, 1 where something differs."""
    from esper.cli.share import verify_command  # noqa: PLC0415

    return verify_command(folder, as_json=as_json)
