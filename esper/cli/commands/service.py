"""What runs in the background, and whether this machine can."""

from __future__ import annotations

from typing import Annotated

import typer

from esper.cli.options import DATA_DIR, AsJson, DataDir

Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="The broker's port on 127.0.0.1; 0 takes a free one.")
]


@app.command(epilog="Example: esper broker --port 9092")
def broker(data_dir: DataDir = DATA_DIR, port: Port = 0, *, as_json: AsJson = False) -> None:
    """Only the embedded Kafka-protocol broker, until Ctrl-C; runs on the same data folder join it."""
    from esper.cli.up import up_command  # noqa: PLC0415

    up_command(data_dir, port, broker_only=True, as_json=as_json)


@app.command(epilog="Example: esper up --port 9092")
def up(data_dir: DataDir = DATA_DIR, port: Port = 0, *, as_json: AsJson = False) -> None:
    """Broker and workers that outlive a run, until Ctrl-C; runs on the same data folder join them."""
    from esper.cli.up import up_command  # noqa: PLC0415

    up_command(data_dir, port, broker_only=False, as_json=as_json)


@app.command(epilog="Example: esper doctor --json")
def doctor(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> int:
    """Check what Esper needs on this machine, and say what to do where something is missing."""
    from esper.cli.doctor import doctor_command  # noqa: PLC0415

    return doctor_command(data_dir, as_json=as_json)
