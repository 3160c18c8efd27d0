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


class TwoAtOnce(InvalidInput):
    """A script that is run again has two runs that train at once, of which only one has the record's world."""

    def __init__(self) -> None:
        super().__init__(
            "this script trains two runs of esper.grow at once, and such runs cannot be trained again: let one end "
            "before the next begins, or start each by a script of its own"
        )


@dataclass(slots=True)
class Appointment:
    """What a run of the script is to be, and what came of it: its result, or what ended it.

    `is_last` says that the script ends with it. `config` None takes what the script asks for. A run that is new begins
    with its first batch, and with `script` on record; an epoch of it has `steps` where its loader does not say.
    Without a `run_id` it is that of a call that began no run before the next one was made. `passed` says that the next
    one was appointed while this was not over. `data` is the fingerprint of its data on record, and `reasons` takes why
    it may not come to the same again.
    """

    config: RunConfig | None
    world: World
    run_id: str
    is_last: bool = True
    script: Script | None = None
    steps: int = 0
    passed: bool = False
    data: str = ""
    reasons: list[str] = field(default_factory=list)
    result: RunResult | None = None
    error: BaseException | None = None

    @property
    def is_new(self) -> bool:
        """Whether its first fact is not on record, and waits for the first batch."""
        return self.script is not None or not self.run_id

    def check_alone(self) -> None:
        """Raise TwoAtOnce before a step that is taken beside the run of a later call."""
        if self.passed:
            raise TwoAtOnce


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

    Raises TwoAtOnce where all were taken: the last of them would end the script, and is not over.
    """
    if not _queues:
        return None
    queue = _queues[-1]
    if not queue.waiting:
        queue.taken[-1].error = TwoAtOnce()
        raise queue.taken[-1].error
    for earlier in queue.taken:
        earlier.passed = earlier.result is None and earlier.error is None
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
