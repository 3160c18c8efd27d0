"""The tasks by name. `from esper.tolaria.tasks import Samples, Site, Task` is all that a person's own task needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from esper.errors import InvalidInput
from esper.kasmina.sites import Site
from esper.leyline.objects import ObjectStore
from esper.tolaria.data import Samples
from esper.tolaria.tasks.chars import chars
from esper.tolaria.tasks.cifar10 import cifar10
from esper.tolaria.tasks.digits import digits, digits_wide
from esper.tolaria.tasks.spirals import spirals
from esper.tolaria.tasks.task import Task
from esper.tolaria.tasks.user_file import recorded_user_task, user_task

BUILTIN: Final[dict[str, Callable[[], Task]]] = {
    "digits": digits,
    "digits-wide": digits_wide,
    "chars": lambda: chars(32, 1),
    "chars-narrow": lambda: chars(16, 2),
    "chars-wide": lambda: chars(64, 2),
    "spirals": lambda: spirals(4),
    "spirals-wide": lambda: spirals(8),
}


def load_task(name: str) -> Task:
    """The task of this name.

    A name is one of BUILTIN, `cifar10:FOLDER`, or `path/to/file.py:function`. `NAME@PARAMS` gives a built-in task a
    static host of about so many parameters. Raises InvalidInput for anything else.
    """
    if name.startswith("cifar10:"):
        return replace(cifar10(Path(name.removeprefix("cifar10:")), width=8), name=name)
    base, at, params = name.partition("@")
    if base in BUILTIN:
        task = replace(BUILTIN[base](), name=name)
        return task if not at else _sized(task, params)
    if ".py:" in name:
        return user_task(name)
    raise InvalidInput(
        f"task {name!r} is unknown; choose {', '.join(BUILTIN)}, cifar10:FOLDER or path/to/file.py:function"
    )


def recorded_task(name: str, source: str, objects: ObjectStore) -> Task:
    """The task that a run was trained on, where `source` is what it recorded; a person's own as it was then."""
    return recorded_user_task(name, source, objects) if source.startswith("file:") else load_task(name)


def _sized(task: Task, params: str) -> Task:
    if task.sized_host is None or not params.isdecimal():
        raise InvalidInput(f"task {task.name}: {params!r} is no number of parameters; write NAME@1200")
    sized_host, wanted = task.sized_host, int(params)
    return replace(task, make_host=lambda: sized_host(wanted))


__all__ = ["BUILTIN", "Samples", "Site", "Task", "load_task", "recorded_task"]
