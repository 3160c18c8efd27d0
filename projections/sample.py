"""The small history that Esper carries, so that a question can be tried before anything was run.

Five runs, exported as `esper export` does it: digits with its control run, a fork of it, digits with random decisions,
and spirals where a person asked for a cull, which was refused, and for a rollback.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from projections.export import ARCHIVE
from projections.history import History


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
