"""The worlds that the calls of `esper.grow` of this process train in, where their script is run again under a record.

A script makes its own model and data and calls `esper.grow` itself, so nobody can hand it a world. Whoever runs it
again appoints one for each call up to the run that is meant: those before it come to what is on record again. Its end
ends the script by `RunOver`: what the script does afterwards was done when it was run for the first time.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contracts.leyline.v1.event_pb2 import Script
from esper.errors import InvalidInput
from esper.tolaria.config import RunConfig

if TYPE_CHECKING:
    from esper.tolaria.session import RunResult
    from esper.tolaria.world import World


class RunOver(BaseException):
    """The run that was appointed is over, and the script with it; no Exception, so that no script catches it."""


@dataclass(slots=True)
class Appointment:
    """What a run of the script is to be, and what came of it: its result, or what ended it.

    `is_last` says that the script ends with it. `config` None takes what the script asks for. A run that is new begins
    with its first batch, and with `script` on record; an epoch of it has `steps` where its loader does not say.
    """

    config: RunConfig | None
    world: World
    run_id: str
    is_last: bool = True
    script: Script | None = None
    steps: int = 0
    result: RunResult | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Queue:
    waiting: list[Appointment]
    taken: list[Appointment] = field(default_factory=list)


_queues: list[_Queue] = []


@contextlib.contextmanager
def appoint(appointments: Sequence[Appointment]) -> Iterator[None]:
    """Have the next calls of `esper.grow` in this process train in these worlds, in their order."""
    _queues.append(_Queue(list(appointments)))
    try:
        yield
    finally:
        _queues.pop()


def take() -> Appointment | None:
    """The appointment of the call of `esper.grow` that is made now; None where the script is not run again.

    Raises InvalidInput where all were taken: the script has two runs at once.
    """
    if not _queues:
        return None
    queue = _queues[-1]
    if not queue.waiting:
        error = InvalidInput(
            "this script began another run of esper.grow before the one that is trained again was over, and two runs "
            "of one script that train at once cannot be trained again: let one end before the next begins"
        )
        queue.taken[-1].error = error
        raise error
    queue.taken.append(queue.waiting.pop(0))
    return queue.taken[-1]


@dataclass(slots=True)
class Call:
    """One call of `esper.grow` of this process: its run, whether that has begun, and the runs of the calls before."""

    run_id: str
    before: tuple[str, ...]
    began: bool = False


_calls: list[Call] = []
_script: list[object] = [None]


def count(run_id: str) -> Call:
    """Count a call of `esper.grow` by the script that runs now; of an earlier call that never began the text is empty.

    A process that runs one script after another counts each by itself.
    """
    main = sys.modules.get("__main__")
    if _script[0] is not main:
        _script[0] = main
        _calls.clear()
    call = Call(run_id, tuple(each.run_id if each.began else "" for each in _calls))
    _calls.append(call)
    return call
