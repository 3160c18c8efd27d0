"""The state of a run at any of its steps: the nearest checkpoint, and the rest trained again from the record."""

from __future__ import annotations

from collections.abc import Callable

from esper.errors import CorruptState
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.record import Recorded, mark_at_step
from esper.record.run_status import path_from
from esper.tolaria.config import RunConfig
from esper.tolaria.divergence import Diverged
from esper.tolaria.past import Reached
from esper.tolaria.ports import Clock
from esper.tolaria.replay import Nowhere
from esper.tolaria.retrace import nearest, retrace
from esper.tolaria.state_tree import FlatState
from esper.tolaria.tasks.task import Task
from esper.tolaria.train import train


def state_at(
    recorded: Recorded,
    task: Task,
    *,
    objects: ObjectStore,
    clock: Clock,
    step: int,
    watch: Callable[[Event], None] = lambda _fact: None,
) -> FlatState:
    """The state after `step` optimiser steps of the surviving timeline and all that happened at that step.

    Every recorded digest on the way is compared. Raises CorruptState where the run does not come to what is on record
    again, and InvalidInput where the record lacks what it takes.
    """
    mark = mark_at_step(recorded.state, step)
    # The end changes nothing, and a run that has ended takes no further step.
    upto = next((each.sequence for each in path_from(mark) if each.body != "run_finished"), 0)
    start = nearest(recorded, objects, step=step, sequence=upto)
    begun = recorded.begun(0 if start is None else start.sequence)
    past = retrace(recorded, objects, start=start, upto=upto, watch=watch, until=step)
    try:
        train(
            RunConfig.from_json(begun.run_started.config_json),
            task,
            Nowhere(),
            clock=clock,
            objects=objects,
            verifier=None,
            run_id=begun.run_id,
            past=past,
        )
    except Reached as reached:
        if past.odd is not None:
            raise CorruptState(f"run {recorded.run_id} does not come to its record again: {past.odd}") from None
        return reached.state
    except Diverged as error:
        raise CorruptState(f"run {recorded.run_id} does not come to its record again: {error.divergence}") from None
    raise CorruptState(f"run {recorded.run_id} ends before step {step} when it is trained again")
