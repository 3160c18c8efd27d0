"""A task that trains ever more slowly, until the test that does something to its run has done it.

Whoever kills or interrupts a run half-way must find it half-way, on any machine: the length of a run says nothing about
that. The first steps take no longer than those of `spirals`, then each takes a millisecond more than the one before;
the run goes on at full speed once there is the file that `ESPER_TESTS_GO_ON` names, or where nothing is named.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import torch

from esper.tolaria.tasks import Task, load_task

QUICK_STEPS = 60
"""Five epochs, counted anew in every process."""
PAUSE_S = 0.001
MOST_S = 0.5
"""Longer than that nobody waits for the process to see that it is to end."""


def task() -> Task:
    """`spirals`, computed as ever."""
    spirals, steps = load_task("spirals"), 0
    go_on = Path(os.environ.get("ESPER_TESTS_GO_ON", "/"))

    def per_sample_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += outputs.requires_grad
        if outputs.requires_grad and steps > QUICK_STEPS and not go_on.exists():
            time.sleep(min(MOST_S, (steps - QUICK_STEPS) * PAUSE_S))
        return spirals.per_sample_loss(outputs, targets)

    return replace(spirals, per_sample_loss=per_sample_loss)
