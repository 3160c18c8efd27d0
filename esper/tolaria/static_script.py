"""The static arm of a person's own script: it has a grown structure from its first step, for a budget of FLOPs.

The script is run again as it is. Its network has the structure when its loop begins, by the same seeds that grew it,
which join its optimiser at the full rate. It trains as many epochs as the budget has room for, and its learning-rate
schedule, which was made for as many as the script asks for, is drawn out or pressed to those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import distributed

from esper.errors import InvalidInput
from esper.kasmina.passes import Closure
from esper.tolaria.commands import follow_with_optimizer
from esper.tolaria.data import own_random_stream
from esper.tolaria.flops import Counter
from esper.tolaria.measuring import Costs
from esper.tolaria.run import Run
from esper.tolaria.script_work import ScriptWork
from esper.tolaria.static import build_in, epochs_within


def build_structure(run: Run) -> None:
    """Give a script's run at step 0 the structure of its configuration, if it has one; nothing is published.

    Raises InvalidInput for a structure that the host cannot have.
    """
    if not run.config.structure:
        return
    with own_random_stream(run.device):
        torch.manual_seed(run.random.seeds["init"])
        build_in(run.kasmina, run.host, run.config.structure)
    run.kasmina.drain_telemetry()
    follow_with_optimizer(run, lambda _changes: None)
    run.regroup()
    run.structure_changed()


def fit_epochs(run: Run, closure: Closure | None, *, samples: int, steps: int) -> None:
    """Set the run's epochs to as many as its budget of FLOPs has room for, at least one.

    An epoch has `steps` optimiser steps, or as many as the loader says, and a batch `samples` samples. Without a
    closure a step costs three times the forward pass of the probe.
    """
    budget = run.config.flops_budget
    assert budget is not None
    work = run.work
    assert isinstance(work, ScriptWork)
    trained = (work.steps_per_epoch or steps) * samples * run.accumulate
    with Counter() as counter:
        if closure is None:
            work.probe(run.host)
        else:
            run.kasmina.quietly(work.aside(closure), learning=True).backward()  # type: ignore[no-untyped-call]
    passes, of = (3.0, work.probe_samples) if closure is None else (1.0, samples)
    per_sample = passes * counter.get_total_flops() / of
    epochs = torch.tensor([epochs_within(budget, Costs(per_sample, 0, 0), trained=trained)])
    if run.shared:
        distributed.broadcast(epochs, 0)
    run.epochs = int(epochs)
    run.config = replace(run.config, epochs=run.epochs)


def stretch(scheduler: Any, *, made_for: int, epochs: int) -> None:
    """Have a schedule that was made for so many epochs come to its end after `epochs`.

    Each call of `step` moves it by `made_for / epochs` of its own steps. A schedule that follows a figure, such as
    ReduceLROnPlateau, has no end and stays as it is.
    """
    if scheduler is None or made_for == epochs or isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        return
    kind = type(scheduler)
    plain: Callable[..., None] = kind.step

    def step(self: Any, *arguments: Any, **named: Any) -> None:
        calls = getattr(self, "stretched_calls", 0) + 1
        self.stretched_calls = calls  # part of its state, so that it is where it was when the run is gone on with
        for _ in range(calls * made_for // epochs - (calls - 1) * made_for // epochs):
            plain(self, *arguments, **named)

    try:
        scheduler.__class__ = type(kind.__name__, (kind,), {"step": step})
    except TypeError:
        raise InvalidInput(
            f"the schedule is a {kind.__name__}, whose steps cannot be counted; it was made for {made_for} epochs, and "
            f"the static run has {epochs}"
        ) from None
