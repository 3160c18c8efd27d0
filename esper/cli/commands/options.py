"""Options that many commands share, the data folder's and `--json` first, and what their words mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from esper.errors import InvalidInput


def data_folder(value: Path) -> Path:
    """`~` is the home folder, also where no shell made it that."""
    try:
        return value.expanduser()
    except RuntimeError:
        raise InvalidInput(f"there is no home folder for {value}; name the data folder in full") from None


DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="ESPER_DATA",
        help="The data folder: log, archive and objects.",
        show_default=True,
        callback=data_folder,
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
MOST_SEEDS: Final = 1000
Trust = Annotated[
    bool, typer.Option("--trust", help="Run code that came with a run which was not recorded with your key, unasked.")
]


class Group(TyperGroup):
    """Commands, listed in the help each with its whole first sentence: click would cut it to fit into one line."""

    def format_commands(self, context: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the list of commands into `formatter`."""
        for command in self.commands.values():
            command.short_help = " ".join((command.help or "").split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
        super().format_commands(context, formatter)


def random_seeds(text: str) -> tuple[int, ...]:
    """The random seeds that `0..4` or `0,3,7` means."""
    first, dots, last = text.partition("..")
    words = [first, last] if dots else [word for word in text.split(",") if word.strip()]
    if not all(word.strip().isdecimal() for word in words):
        raise InvalidInput(f"--seeds {text!r} is no FIRST..LAST, such as 0..4, and no list, such as 0,3,7")
    numbers = [int(word) for word in words]
    seeds = tuple(range(numbers[0], numbers[1] + 1)) if dots else tuple(dict.fromkeys(numbers))
    if dots and not 1 < len(seeds) <= MOST_SEEDS:
        raise InvalidInput(f"--seeds {text!r} are {len(seeds)} random seeds; give 2 to {MOST_SEEDS}")
    return seeds
