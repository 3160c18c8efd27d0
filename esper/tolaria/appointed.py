"""The world that the next `esper.grow` of this process trains in, where its script is run again under a record.

A script makes its own model and data and calls `esper.grow` itself, so nobody can hand it a world. Whoever runs it
again appoints one; `esper.grow` takes it instead of starting or joining a log, and ends the script by `RunOver` when
the run is over: what the script does afterwards was done when it was run for the first time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.errors import InvalidInput
from esper.tolaria.config import RunConfig

if TYPE_CHECKING:
    from esper.tolaria.session import RunResult
    from esper.tolaria.world import World


class RunOver(BaseException):
    """The run that was appointed is over, and the script with it; no Exception, so that no script catches it."""


@dataclass(slots=True)
class Appointment:
    """What the script's run is to be, and what came of it: its result, or what ended it."""

    config: RunConfig
    world: World
    run_id: str
    result: RunResult | None = None
    error: BaseException | None = None
    taken: bool = False


_next: list[Appointment] = []


@contextlib.contextmanager
def appoint(config: RunConfig, world: World, run_id: str) -> Iterator[Appointment]:
    """Have the next `esper.grow` of this process train in `world`."""
    appointment = Appointment(config, world, run_id)
    _next.append(appointment)
    try:
        yield appointment
    finally:
        _next.remove(appointment)


def take() -> Appointment | None:
    """The appointment of this process, once; None where there is none.

    Raises InvalidInput where it was taken before: a script that grows several networks has one record for each, and
    only its first can be trained again.
    """
    if not _next:
        return None
    appointment = _next[-1]
    if appointment.taken:
        raise InvalidInput(
            "this script calls esper.grow more than once, and only the run of its first call can be trained again: "
            "let one run of the script grow one network, and give what differs as an argument"
        )
    appointment.taken = True
    return appointment
