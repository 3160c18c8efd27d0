"""The processes of a house, as its fork server makes them: each with a clock that can be set, and its mutation.

A target's first arguments are the file of clocks, the place of its own in it, and the name of a mutation or `-`; all
others are those of Esper's process, or of a client (`clients`).
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tests.checker import clients, mutations

PLACES = 64
WIDTH = struct.calcsize("d")


def broker(arguments: Sequence[str], messages: TextIO) -> None:
    """The embedded log."""
    import streams.broker.__main__ as module

    module.run(_prepared(arguments), messages)


def archiver(arguments: Sequence[str], messages: TextIO) -> None:
    """From the log to Parquet."""
    import streams.archiver as module

    module.run(_prepared(arguments), messages)


def projector(arguments: Sequence[str], messages: TextIO) -> None:
    """From the log to the projections' files."""
    import tests.checker.projector as module

    module.run(_prepared(arguments), messages)


def client(arguments: Sequence[str], messages: TextIO) -> None:
    """A trainer, an author of commands, a stranger or a reader."""
    clients.run(_prepared(arguments), messages)


def _prepared(arguments: Sequence[str]) -> Sequence[str]:
    clocks, place, mutation, *rest = arguments
    set_clock(Path(clocks), int(place))
    if mutation != "-":
        mutations.apply(mutation)
    return rest


def set_clock(path: Path, place: int) -> None:
    """From now on this process's wall clock is off by what stands in the file, as that changes. No clock else is."""
    with path.open("rb") as file:
        shared = mmap.mmap(file.fileno(), PLACES * WIDTH, access=mmap.ACCESS_READ)
    real, real_ns = time.time, time.time_ns

    def off_s() -> float:
        return struct.unpack_from("d", shared, place * WIDTH)[0]

    time.time = lambda: real() + off_s()
    time.time_ns = lambda: real_ns() + round(off_s() * 1e9)
