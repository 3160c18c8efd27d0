"""What a person's task brings beside its host: optimiser and scheduler, made for each run, and looked at beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import torch
from torch import nn

from esper.errors import EsperError, InvalidInput
from esper.kasmina.kasmina import Kasmina
from esper.tolaria.config import RunConfig
from esper.tolaria.own_code import told
from esper.tolaria.own_optimizer import OWN, OwnOptimizer
from esper.tolaria.tasks.task import Task

_OF_OPTIMIZER: Final = (
    "optimizer",
    "weight_decay",
    "momentum",
    "rate_policy",
    "rate_warmup_epochs",
    "rate_decay_share",
)
"""What a configuration says of an optimiser and its rates; a task that brings its own has said it itself."""


def with_own(config: RunConfig, task: Task) -> RunConfig:
    """The complete configuration with what the task brings; raises InvalidInput where it asks for something else.

    A recorded one agrees: it was completed here.
    """
    if task.make_loader is not None:
        if config.batch_size != task.batch_size:
            raise InvalidInput(
                f"batch_size is {config.batch_size}, and task {task.name} brings its loader, whose first batch has "
                f"{task.batch_size}: leave --batch-size out, and change the loader"
            )
        if config.microbatches > task.batch_size:
            raise InvalidInput(
                f"microbatches is {config.microbatches}, and a batch of {task.name} has {task.batch_size} samples"
            )
    if task.make_optimizer is None or config.optimizer == OWN:
        return config
    plain = RunConfig()
    asked = [name for name in _OF_OPTIMIZER if getattr(config, name) != getattr(plain, name)]
    if config.learning_rate != task.learning_rate:
        asked.append("learning_rate")
    if asked:
        raise InvalidInput(
            f"{asked[0]} is {getattr(config, asked[0])}, and task {task.name} brings its optimiser, which it is a part "
            "of: leave it out, and change make_optimizer"
        )
    return replace(config, optimizer=OWN, rate_policy=OWN)


def _checked_optimizer(task: Task, host: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that the task makes of the host; raises InvalidInput for what is none, or holds nothing of it."""
    made = _made(task, "make_optimizer", host)
    if not isinstance(made, torch.optim.Optimizer):
        raise InvalidInput(
            f"{task.at('make_optimizer')}make_optimizer gives a {type(made).__name__}; it must give a "
            "torch.optim.Optimizer"
        )
    held = {id(parameter) for group in made.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in host.parameters()):
        raise InvalidInput(
            f"{task.at('make_optimizer')}make_optimizer holds no parameter of the host that it is given: make it of "
            "host.parameters()"
        )
    return made


def own_optimizer(task: Task, host: nn.Module, kasmina: Kasmina, monotonic: Callable[[], float]) -> OwnOptimizer:
    """What the task makes of the host, as one that seeds can join."""
    places = kasmina.sites
    return OwnOptimizer(
        _checked_optimizer(task, host),
        places=lambda seed_id: list(host.get_submodule(places()[seed_id].site).parameters()),
        monotonic=monotonic,
    )


def own_scheduler(task: Task, optimizer: OwnOptimizer | None) -> Any:
    """The scheduler that the task makes of its optimiser, None where it makes none."""
    if task.make_scheduler is None or optimizer is None:
        return None
    made = _made(task, "make_scheduler", optimizer.torch)
    if not callable(getattr(made, "step", None)) or isinstance(made, torch.optim.lr_scheduler.ReduceLROnPlateau):
        why = "which waits for a loss" if callable(getattr(made, "step", None)) else "which has no step()"
        raise InvalidInput(
            f"{task.at('make_scheduler')}make_scheduler gives a {type(made).__name__}, {why}; give a scheduler of "
            "torch.optim.lr_scheduler that is stepped without one"
        )
    return made


def _made(task: Task, name: str, given: object) -> Any:
    """What a task's factory makes of `given`; what it raises becomes InvalidInput with its line."""
    try:
        return getattr(task, name)(given)
    except EsperError:
        raise
    except Exception as error:  # of a person's code, anything
        raise InvalidInput(f"{task.at(name)}{name} fails with {told(error)}") from error


def try_factories(task: Task, host: nn.Module) -> None:
    """Make what the task's factories make of a host, and look at it; raises InvalidInput with the line of the field."""
    if task.make_optimizer is not None:
        made = OwnOptimizer(_checked_optimizer(task, host), places=lambda _seed: [], monotonic=lambda: 0.0)
        own_scheduler(task, made)
