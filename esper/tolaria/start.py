"""The first facts of a run: what it is, on what it runs, and the digest of the weights it begins with."""

from __future__ import annotations

from typing import cast

import torch

import esper
from contracts.leyline.v1.event_pb2 import RunStarted
from contracts.leyline.v1.leyline_pb2 import CIRCUIT_BREAKER_STATE_OPEN, CircuitBreakerState
from esper.tolaria.breakers import ISOLATION
from esper.tolaria.commands import PAUSE
from esper.tolaria.data import fingerprint
from esper.tolaria.flops import host_flops_per_sample
from esper.tolaria.kernels import likely
from esper.tolaria.recovery import keep, save_checkpoint
from esper.tolaria.run import Run
from esper.tolaria.run_state import capture, publish_digest, restore, spent_by
from esper.tolaria.state_tree import digest, flatten
from esper.tolaria.versions import library_versions
from esper.tolaria.world import StartingPoint


def begin(run: Run) -> None:
    """Bring the run to where it begins, its first step or a checkpoint; ask for the kernels that it may need."""
    if run.world.start is None:
        publish_start(run)
    else:
        _begin_at_checkpoint(run, run.world.start)
    if run.outside.library is not None and run.config.policy != "none":
        run.outside.library.want(likely(run.sites))


def _begin_at_checkpoint(run: Run, start: StartingPoint) -> None:
    """Restore the state of a checkpoint and all else that was so at its place in the run."""
    snapshot, before = start.snapshot, start.before
    where = snapshot.position
    restore(run, snapshot.flat)
    flat = capture(run)
    run.world.compare_start(digest(flat), flat)
    run.recorder.timeline, run.recorder.step, run.recorder.epoch = where.timeline, where.step, where.epoch
    run.flops.spent |= spent_by(snapshot.flat)
    run.checkpoints = [checkpoint for checkpoint in start.checkpoints if checkpoint.position.step < where.step]
    for breaker in (run.decider_breaker, run.rate_breaker):
        if breaker.name in before.run_status.breakers:
            breaker.force(cast("CircuitBreakerState", before.run_status.breakers[breaker.name]), "as it was left")
    for name, state in before.run_status.breakers.items():
        if state == CIRCUIT_BREAKER_STATE_OPEN:
            run.mode.enter(name)
            if name.startswith(ISOLATION):
                run.kasmina.reopen(name.removeprefix(ISOLATION))
    if run.paused_until > where.epoch:
        run.mode.enter(PAUSE)
    run.snapshots.add(snapshot)
    run.world.remember(snapshot)
    save_checkpoint(run, snapshot, start.reason)
    run.outside.log.flush()


def publish_start(run: Run) -> None:
    """Publish RunStarted, the digest of step 0 and its checkpoint, and wait until the log has them."""
    task, config = run.task, run.config
    if task.source_code:
        run.world.put(task.source_code)
    run.recorder.publish(
        RunStarted(
            task=task.name,
            config_json=config.to_json(),
            esper_version=esper.__version__,
            library_versions=library_versions(),
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            threads=torch.get_num_threads(),
            seeds=run.random.seeds,
            data_fingerprint=fingerprint([task.train, task.probe, task.test]),
            task_source=task.source,
            weights_digest=digest(flatten(run.host.state_dict())).root,
            device=str(run.device),
            params_host=run.params_host,
            flops_per_sample=host_flops_per_sample(
                run.host, task.loss, task.train.inputs[: run.batch_size], task.train.targets[: run.batch_size]
            ),
            epochs=run.epochs,
            steps_per_epoch=run.steps_per_epoch,
            policy=config.policy,
            sites=run.sites,
            control_of=config.control_of,
            lifecycle=config.seeds.lifecycle,
            train_samples=len(task.train),
            probe_samples=len(task.probe),
            test_samples=len(task.test),
        )
    )
    flat = capture(run)
    save_checkpoint(run, keep(run, flat, publish_digest(run, flat, "start")), "epoch")
    run.outside.log.flush()
