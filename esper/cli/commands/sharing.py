"""`esper report`, `serve`, `export` and `verify`, by which others see a run: their arguments, options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from esper.cli.commands.options import DATA_DIR, AsJson, DataDir, Run, Trust
from esper.errors import InvalidInput

sharing_app = typer.Typer()


@sharing_app.command(epilog="Example: esper report last --to run.html")
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
    from esper.cli.archive import report_command  # noqa: PLC0415

    report_command(data_dir, run, to, as_json=as_json)


@sharing_app.command(epilog="Example: esper serve --open")
def serve(
    data_dir: DataDir = DATA_DIR,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The page's port; 0 takes a free one.")] = 0,
    host: Annotated[
        str, typer.Option("--host", help="The address to bind; any other than loopback's is one that others reach.")
    ] = "127.0.0.1",
    *,
    open_page: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Mission control, until Ctrl-C: a page with all runs as they are and were, alerts, and buttons to tell them.

    It reads the archive in a process of its own: no run waits for it, and it needs no other one. The address that is
    printed holds the token that lets a page act; ESPER_SERVE_TOKEN is that token instead, where it is set, and --json
    never prints it.
    """
    from esper.cli.serve.command import serve_command  # noqa: PLC0415

    serve_command(data_dir, host=host, port=port, open_page=open_page, as_json=as_json)


@sharing_app.command(epilog="Example: esper export last --to for-ada --with-objects")
def export(
    run: Run,
    data_dir: DataDir = DATA_DIR,
    *,
    form: Annotated[
        Literal["esper", "tensorboard", "mlflow", "wandb", "otlp", "elasticsearch"],
        typer.Option(
            "--as",
            help="Whose: Esper's own, or for another tool: TensorBoard, MLflow, W&B offline, an OpenTelemetry "
            "collector, or all events for Elasticsearch.",
        ),
    ] = "esper",
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="PLACE",
            help="The folder to make, esper-export-RUN by default; for MLflow also its address, for OpenTelemetry "
            "and Elasticsearch http://HOST:PORT.",
            show_default=False,
        ),
    ] = None,
    with_objects: Annotated[
        bool, typer.Option("--with-objects", help="Also what a replay needs: checkpoints, digests, long observations.")
    ] = False,
    with_network: Annotated[
        bool, typer.Option("--with-network", help="Also the run's network: weights, what they are, and its code.")
    ] = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """A run's whole history as one folder without keys, that anybody can ask with plain DuckDB and verify.

    Its control run comes along, and the runs that it was forked from. Nothing is overwritten. With --as its figures,
    settings and what happened to its seeds go to another tool, each figure by its epoch or step.
    """
    if form != "esper":
        if with_objects or with_network:
            raise InvalidInput(f"--as {form} takes figures and notes; leave --with-objects and --with-network out")
        from esper.cli.interchange import export_as  # noqa: PLC0415

        export_as(data_dir, run, form, to, as_json=as_json)
        return
    from esper.cli.archive import export_command  # noqa: PLC0415

    folder = None if to is None else Path(to)
    export_command(
        data_dir, run, folder, with_objects=with_objects, with_network=with_network, trust=trust, as_json=as_json
    )


@sharing_app.command(epilog="Example: esper verify esper-export-k3f9x2qa")
def verify(
    folder: Annotated[Path, typer.Argument(help="A folder that `esper export` made.", metavar="FOLDER")],
    *,
    as_json: AsJson = False,
) -> int:
    """Check that an exported folder holds what was exported: exit code 0 where it does, 1 where something differs."""
    from esper.cli.archive import verify_export_command  # noqa: PLC0415

    return verify_export_command(folder, as_json=as_json)
