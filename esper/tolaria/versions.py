"""What a run's bits hang on beside its own code, and how one machine differs from another in that."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import numpy as np
import safetensors
import torch

import esper
from contracts.leyline.v1.event_pb2 import RunStarted
from esper.errors import InvalidInput
from esper.tolaria.data import fingerprint
from esper.tolaria.tasks.task import Task


def library_versions() -> dict[str, str]:
    """The versions that are recorded."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }


def check_data(recorded: RunStarted, task: Task) -> None:
    """Raise InvalidInput where the task's samples are not those that the run was trained on."""
    if fingerprint([task.train, task.probe, task.test]) != recorded.data_fingerprint:
        raise InvalidInput(f"the samples of task {recorded.task} are not those that the run was trained on")


def differences(recorded: RunStarted, task: Task) -> Iterator[str]:
    """How this process and its data differ from those that trained a run, in one line each.

    Call it with as many threads set as the run is to have. A difference in any of these may change every bit.
    """
    ours = {
        "esper": esper.__version__,
        **library_versions(),
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "data": fingerprint([task.train, task.probe, task.test])[:16],
    }
    then = {
        "esper": recorded.esper_version,
        **recorded.library_versions,
        "CPU capability": recorded.cpu_capability,
        "threads": str(recorded.threads),
        "data": recorded.data_fingerprint[:16],
    }
    for name, value in ours.items():
        if value != then.get(name):
            yield f"{name} {then.get(name, 'unknown')} then, {value} now"
