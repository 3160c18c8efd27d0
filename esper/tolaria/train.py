"""Training a task: its loop, over the engine that a person's own loop uses too (`esper.tolaria.engine`)."""

from __future__ import annotations

import torch

from contracts.leyline.v1.event_pb2 import RunStarted
from esper.leyline.objects import ObjectStore
from esper.tolaria.config import RunConfig
from esper.tolaria.data import every_stream_kept, own_random_stream
from esper.tolaria.engine import Session, result_of
from esper.tolaria.run import find_device, make_run
from esper.tolaria.script_again import RecordedScript
from esper.tolaria.session import RunResult
from esper.tolaria.tasks import recorded_task
from esper.tolaria.tasks.task import Task
from esper.tolaria.work import TaskWork
from esper.tolaria.world import World

Trainable = Task | RecordedScript
"""What a run can be trained with from outside: a task, or a script that was run before."""


def trained_in(root: RunStarted, objects: ObjectStore) -> Trainable:
    """What the run with this first fact trained, as it was then.

    Raises InvalidInput where its code is neither where it lay nor among the objects, as `recorded_task` does.
    """
    if root.HasField("script"):
        return RecordedScript(root.task, root.script, objects)
    return recorded_task(RunConfig.from_json(root.config_json).task, root.task_source, objects)


def train(config: RunConfig, task: Trainable, world: World, *, run_id: str) -> RunResult:
    """Train one network from its first step to its last; returns what came of it.

    The global random streams are the caller's again afterwards; torch's thread count stays what the configuration
    says.

    Raises InvalidInput for a task, site or device that does not fit, and what `Session` raises.
    """
    torch.set_num_threads(config.threads)
    if isinstance(task, RecordedScript):
        with own_random_stream(find_device(config.device)):
            return task.train(config, world, run_id=run_id)
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
