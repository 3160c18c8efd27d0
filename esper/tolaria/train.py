"""Training a task: its loop, over the engine that a person's own loop uses too (`esper.tolaria.engine`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from contracts.leyline.v1.event_pb2 import Script
from esper.errors import InvalidInput
from esper.leyline.objects import ObjectStore
from esper.record import Recorded
from esper.record.recorded import FILE
from esper.tolaria.config import RunConfig
from esper.tolaria.data import every_stream_kept, own_random_stream
from esper.tolaria.engine import Session, result_of
from esper.tolaria.new_run import find_device, make_run
from esper.tolaria.script import as_it_is_now
from esper.tolaria.script_again import Ranks, RecordedScript, alone
from esper.tolaria.session import RunResult
from esper.tolaria.tasks import load_task, recorded_task
from esper.tolaria.tasks.task import Task
from esper.tolaria.work import TaskWork
from esper.tolaria.world import World

Trainable = Task | RecordedScript
"""What a run can be trained with from outside: a task, or a script that was run before."""


def trained_in(recorded: Recorded, objects: ObjectStore, ranks: Ranks = alone) -> Trainable:
    """What a run trained, as it was then; `ranks` starts the other processes of a script that had several.

    Raises InvalidInput where its code is neither where it lay nor among the objects, as `recorded_task` does.
    """
    root = recorded.root
    if root.HasField("script"):
        if recorded.lacks:
            raise InvalidInput(f"run {recorded.run_id} cannot be trained again: {recorded.lacks}")
        return RecordedScript(root.task, recorded.script, objects, recorded.earlier, ranks, root.data_fingerprint)
    return recorded_task(RunConfig.from_json(root.config_json).task, recorded.task_source, objects)


def mended(recorded: Recorded, task: Trainable, objects: ObjectStore) -> tuple[Trainable, Script | None]:
    """What a run trained with its person's files as they are now, and these, where they are not those on record.

    Raises InvalidInput for a run that was trained by no file of a person's own, and for a file that is gone.
    """
    if isinstance(task, RecordedScript):
        script = as_it_is_now(task.script, objects)
        return replace(task, script=script), script if script != task.script else None
    name = RunConfig.from_json(recorded.root.config_json).task
    if not recorded.task_source.startswith(FILE):
        raise InvalidInput(
            f"run {recorded.run_id} was trained on {name}, which is no file of yours: leave --with-my-file out"
        )
    now = load_task(name)
    if now.source == recorded.task_source:
        return now, None
    file = Path(name.rpartition(":")[0])
    return now, Script(path=name, sources={file.name: objects.put(file.read_bytes(), compress=True)})


def steps_of_epoch(recorded: Recorded) -> int:
    """Optimiser steps of an epoch of this run, at least 1."""
    return max(1, recorded.state.model.step // max(1, recorded.state.model.epoch))


def with_arguments(task: Trainable, arguments: Sequence[str] | None) -> Trainable:
    """A script that is started with other arguments than on record; what else there is stays as it is."""
    if not isinstance(task, RecordedScript) or arguments is None:
        return task
    script = Script.FromString(task.script.SerializeToString())
    script.arguments[:] = arguments
    return replace(task, script=script)


def train(config: RunConfig, task: Trainable, world: World, *, run_id: str, fresh_steps: int = 0) -> RunResult:
    """Train one network from its first step to its last; returns what came of it.

    A script trains for a run that is on record, or with `fresh_steps` for a new one, whose epochs have so many steps.
    The global random streams are the caller's again afterwards; torch's thread count stays what the configuration
    says.

    Raises InvalidInput for a task, site or device that does not fit, and what `Session` raises.
    """
    torch.set_num_threads(config.threads)
    if isinstance(task, RecordedScript):
        with own_random_stream(find_device(config.device)):
            return task.train(config, world, run_id=run_id, fresh_steps=fresh_steps)
    with every_stream_kept(find_device(config.device)):
        run = make_run(config, task, world, run_id=run_id)
        work = run.work
        assert isinstance(work, TaskWork)
        with Session(run) as session:
            for _ in session.epochs():
                run.host.train()
                for batch in session.batches(work.order()):
                    closure = work.closure(run.host, batch)
                    session.step(closure, work.parts(run.host, batch, config.microbatches))
                    if session.stepped:
                        work.schedule("step")
                work.schedule("epoch")
        return result_of(session)
