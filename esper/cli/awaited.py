"""Which run `esper events RUN --follow` means: one that begins now is waited for until its first event can be read."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from esper.cli.history import LENGTH, find_run, history_of
from esper.cli.output import complain
from esper.errors import InvalidInput
from esper.weatherlight import client
from projections.run_queries import run_ids

POLL_S: Final = 0.2
_TRAINS: Final = re.compile(r"esper \w+ ([0-9a-z]+)")
"""What a command that trains calls itself, where it holds a lease: `esper run k3f9x2qa`."""


Clients = Callable[[], Sequence[str]]
"""What the commands that hold a lease of a data folder call themselves now."""


def clients_of(data_dir: Path) -> Sequence[str]:
    """What the commands that hold a lease of this folder call themselves, the latest last."""
    status = client.status(data_dir)
    return status.clients if status is not None else ()


def trained(clients: Sequence[str]) -> list[str]:
    """The ids of the runs that these commands train, the latest last; their first events may still be on their way."""
    found = [match[1] for name in clients if (match := _TRAINS.fullmatch(name)) is not None]
    return [run_id for run_id in found if len(run_id) == LENGTH]  # `esper resume last` begins none


def await_run(data_dir: Path, word: str, clients: Clients) -> str:
    """The id of the run that is to be followed, once its start is in the archive.

    `last` is the run that was started last, though nothing of it can be read yet; where nothing was ever run, the first
    one that is. Raises InvalidInput for a run that does not exist and does not begin, or ended before its first event.
    """
    going = trained(clients())
    wanted = going[-1] if going and word == "last" else next((each for each in going if each.startswith(word)), "")
    if not wanted and (word != "last" or _known(data_dir)):
        with history_of(data_dir) as history:
            return find_run(history, word)
    if not wanted:
        complain("nothing was run in this data folder yet; waiting for a run to begin (Ctrl-C ends that)")
    while not (known := _known(data_dir)) or (wanted and wanted not in known):
        if wanted and wanted not in trained(clients()) and wanted not in _known(data_dir):
            raise InvalidInput(f"run {wanted} ended before it wrote anything; the command that started it says why")
        time.sleep(POLL_S)
    return wanted or known[0]


def _known(data_dir: Path) -> list[str]:
    """The runs of the history, the latest first; none where there is no history yet."""
    with contextlib.suppress(InvalidInput), history_of(data_dir) as history:
        return run_ids(history)
    return []
