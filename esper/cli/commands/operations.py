"""`esper slo`, `drill`, `broker`, `up` and `doctor`: their arguments, options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esper.cli.commands.options import DATA_DIR, Archive, AsJson, DataDir, data_folder

operations_app = typer.Typer()

Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="The broker's port on 127.0.0.1; 0 takes a free one.")
]

Anonymous = Annotated[
    bool,
    typer.Option("--anonymous", help="Let in Kafka clients without the log's secret, those of other users here, too."),
]


@operations_app.command(epilog="Example: esper slo --json")
def slo(data_dir: DataDir = DATA_DIR, archive: Archive = None, *, as_json: AsJson = False) -> int:
    """What is promised, and what is left of each error budget of 30 days. Needs nothing running.

    Of what the history knows; what Prometheus alone sees is in its rules. 1 where 40 % of a budget went in a day.
    """
    from esper.cli.slo import slo_command  # noqa: PLC0415

    return slo_command(data_dir, archive, as_json=as_json)


@operations_app.command(epilog="Example: esper drill tamiyo-timeout broker-loss --window-scale 0.05")
def drill(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Which, as `--list` names them; `all` for every one.", metavar="[NAME]..."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            help="Where each drill gets a data folder of its own; otherwise a temporary place, kept where one fails.",
            callback=lambda value: None if value is None else data_folder(value),
        ),
    ] = None,
    window_scale: Annotated[
        float,
        typer.Option("--window-scale", min=0.01, max=1.0, help="Alerts wait for so much of the time that they do."),
    ] = 1.0,
    broker_pid: Annotated[
        list[int] | None,
        typer.Option("--broker-pid", min=2, help="A process of the log at ESPER_BROKERS that drills may stop."),
    ] = None,
    *,
    listed: Annotated[bool, typer.Option("--list", help="Only say which drills there are.")] = False,
    as_json: AsJson = False,
) -> int:
    """Break a running Esper on purpose, in a folder of its own, and see whether the right alert reaches people.

    Each drill trains a run, stops or spoils something of it from outside, waits for the alert at a webhook, mends what
    it broke, and waits until the alert has cleared and the run has ended as it should; 1 where one does not.
    """
    from esper.cli.drills.play import drill_command, list_drills  # noqa: PLC0415

    if listed:
        list_drills(as_json=as_json)
        return 0
    return drill_command(names or (), folder, window_scale, broker_pid or (), as_json=as_json)


@operations_app.command(epilog="Example: esper broker --port 9092")
def broker(
    data_dir: DataDir = DATA_DIR, port: Port = 0, *, anonymous: Anonymous = False, as_json: AsJson = False
) -> None:
    """Only the embedded Kafka-protocol broker, until Ctrl-C; runs on the same data folder join it."""
    from esper.cli.up import up_command  # noqa: PLC0415

    up_command(data_dir, port, broker_only=True, anonymous=anonymous, as_json=as_json)


@operations_app.command(epilog="Example: esper up --port 9092")
def up(data_dir: DataDir = DATA_DIR, port: Port = 0, *, anonymous: Anonymous = False, as_json: AsJson = False) -> None:
    """Broker and workers that outlive a run, until Ctrl-C; runs on the same data folder join them."""
    from esper.cli.up import up_command  # noqa: PLC0415

    up_command(data_dir, port, broker_only=False, anonymous=anonymous, as_json=as_json)


@operations_app.command(epilog="Example: esper doctor --json")
def doctor(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> int:
    """Check what Esper needs on this machine, and say what to do where something is missing."""
    from esper.cli.up import doctor_command  # noqa: PLC0415

    return doctor_command(data_dir, as_json=as_json)
