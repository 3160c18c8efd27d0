"""The first facts of a run: what it is, on what it runs, and the digest of the weights it begins with."""

from __future__ import annotations

import platform

import numpy as np
import safetensors
import torch

import esper
from contracts.leyline.v1.event_pb2 import RunStarted
from esper.tolaria.data import fingerprint
from esper.tolaria.flops import host_flops_per_sample
from esper.tolaria.recovery import keep, save_checkpoint
from esper.tolaria.run import Run
from esper.tolaria.run_state import capture, publish_digest
from esper.tolaria.state_tree import digest, flatten


def publish_start(run: Run) -> None:
    """Publish RunStarted, the digest of step 0 and its checkpoint, and wait until the log has them."""
    task, config = run.task, run.config
    if task.source_code:
        run.objects.put(task.source_code)
    run.recorder.publish(
        RunStarted(
            task=task.name,
            config_json=config.to_json(),
            esper_version=esper.__version__,
            library_versions={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "safetensors": safetensors.__version__,
            },
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
    run.log.flush()
