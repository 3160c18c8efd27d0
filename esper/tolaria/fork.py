"""A run that is left at a step as another one: the same up to there, then live, with one thing done otherwise."""

from __future__ import annotations

from collections.abc import Callable

from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.record import Recorded
from esper.tolaria.config import RunConfig
from esper.tolaria.forking import Change, Fork, place_of
from esper.tolaria.ports import Clock, KernelSource, Log
from esper.tolaria.result import RunResult
from esper.tolaria.retrace import nearest, retrace
from esper.tolaria.tasks.task import Task
from esper.tolaria.train import train
from esper.tolaria.versions import check_data


def fork_run(
    parent: Recorded,
    run_id: str,
    task: Task,
    log: Log,
    *,
    step: int,
    change: Change,
    clock: Clock,
    objects: ObjectStore,
    verifier: CommandVerifier,
    should_stop: Callable[[], bool],
    library: KernelSource | None = None,
) -> RunResult:
    """Follow `parent` up to `step` and go on from there as the new run `run_id`, with that one `change`."""
    check_data(parent.root, task)
    upto, where = place_of(parent, step, change)
    start = nearest(parent, objects, step=step, sequence=upto)
    begun = parent.begun(0 if start is None else start.sequence)
    return train(
        RunConfig.from_json(begun.run_started.config_json),
        task,
        log,
        clock=clock,
        objects=objects,
        verifier=verifier,
        run_id=begun.run_id,
        should_stop=should_stop,
        library=library,
        past=retrace(parent, objects, start=start, upto=upto, more=True),
        fork=Fork(run_id, step, where, change, parent.begun(upto).run_started),
    )
