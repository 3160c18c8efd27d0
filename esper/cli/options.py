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
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
DATA_DIR: Final = Path("esper-data")
