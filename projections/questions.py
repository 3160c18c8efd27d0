"""Twenty standard questions, one SQL file each in `sql/questions/`, and the small history to try them on.

The first line of a file is the question in words. Some take parameters: `run` (a run's id), `step`, and `event` (the
16 bytes of an event's id). The small history, which the package carries, is five runs, exported as `esper export` does
it: digits with its control run, a fork of it, digits with random decisions, and spirals where a person asked for a
cull, which was refused, and for a rollback.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from projections.export import ARCHIVE
from projections.history import History


@cache
def names() -> tuple[str, ...]:
    """The names of the questions, in order."""
    folder = resources.files("projections").joinpath("sql", "questions")
    return tuple(sorted(entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name.endswith(".sql")))


@cache
def text(name: str) -> str:
    """The SQL of a question; raises FileNotFoundError for one that does not exist."""
    file = resources.files("projections").joinpath("sql", "questions", f"{name}.sql")
    return file.read_text("utf-8").rstrip().removesuffix(";")


def in_words(name: str) -> str:
    """The question as a person asks it."""
    return text(name).split("\n", 1)[0].removeprefix("-- ")


def ask(history: History, name: str, **parameters: Any) -> Any:
    """The connection with the answer's rows; parameters that the question does not take are left out."""
    query = text(name)
    return history.execute(query, {key: value for key, value in parameters.items() if f"${key}" in query})


def folder() -> Path:
    """Where it lies: a data folder, as for `--data-dir`."""
    return Path(str(resources.files("projections").joinpath("small_history")))


def sample() -> History:
    """The small history, open."""
    return History(folder() / ARCHIVE)


def grown_run(history: History) -> str:
    """The id of the run that has a control run beside it."""
    (row,) = history.execute("select control_of from runs where control_of is not null").fetchall()
    return str(row[0])
