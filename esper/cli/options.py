"""Options that most commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir", envvar="ESPER_DATA", help="The data folder: log, archive and objects.", show_default=True
    ),
]
Run = Annotated[str, typer.Argument(help="A run id, the beginning of one, or `last`.", metavar="RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Archive = Annotated[
    str | None,
    typer.Option(
        "--archive",
        help="An archive elsewhere instead: a folder, or an address that fsspec knows, such as s3://bucket/esper.",
        metavar="ADDRESS",
        show_default=False,
    ),
]
DATA_DIR: Final = Path("esper-data")
