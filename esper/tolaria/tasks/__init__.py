"""The tasks by name: the built-in ones, and a person's own as `path/to/file.py:function`.

The function takes nothing and returns a Task; `from esper.tolaria.tasks import Metric, Samples, Site, Task` is all that
it needs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from esper.errors import EsperError, InvalidInput
from esper.kasmina.sites import Site
from esper.leyline import names
from esper.leyline.names import meant
from esper.leyline.objects import ObjectStore
from esper.metric import Metric
from esper.tolaria.data import Samples
from esper.tolaria.own_code import raised_at, told
from esper.tolaria.tasks.chars import chars
from esper.tolaria.tasks.cifar10 import cifar10
from esper.tolaria.tasks.digits import digits, digits_wide
from esper.tolaria.tasks.doc import doc
from esper.tolaria.tasks.spirals import spirals
from esper.tolaria.tasks.tabular import tab, tabn
from esper.tolaria.tasks.task import ACCURACY, NATS, Task

BUILTIN: Final[dict[str, Callable[[], Task]]] = {
    "digits": digits,
    "digits-wide": digits_wide,
    "chars": lambda: chars(32, 1),
    "chars-narrow": lambda: chars(16, 2),
    "chars-wide": lambda: chars(64, 2),
    "spirals": lambda: spirals(4),
    "spirals-wide": lambda: spirals(8),
    "tab": lambda: tab(8),
    "tab-wide": lambda: tab(128),
    "tabn": lambda: tabn(8),
    "tabn-wide": lambda: tabn(64),
    "doc": lambda: doc(24, 1),
    "doc-wide": lambda: doc(48, 2),
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
    """The task that a run was trained on, where `source` is what it recorded; a person's own as it was then.

    Only code whose digest is on record is run: raises InvalidInput for a record that names a file without one.
    """
    if source.startswith("file:"):
        return recorded_user_task(name, source, objects)
    if ".py:" in name and not name.startswith("cifar10:"):
        raise InvalidInput(
            f"the run was trained on {names.shown(name)}, and its record lacks the digest of that file "
            f"({names.shown(source)}): no code is run for it; start a new run with `esper run --task`"
        )
    return load_task(name)


def _sized(task: Task, params: str) -> Task:
    if task.sized_host is None or not params.isdecimal():
        raise InvalidInput(f"task {task.name}: {params!r} is no number of parameters; write NAME@1200")
    sized_host, wanted = task.sized_host, int(params)
    return replace(task, make_host=lambda: sized_host(wanted))


# ------------------------------------------------------------------------------------- a person's own task


def recorded_user_task(reference: str, source: str, objects: ObjectStore) -> Task:
    """The task as it was when a run recorded its `source`: the file, or what the run kept of it where that has changed.

    Raises InvalidInput where neither is there, and as `user_task` does.
    """
    location, _, function = reference.rpartition(":")
    path, digest = Path(location), names.digest(source.removeprefix("file:"), "the recorded task")
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
        return user_task(reference)
    code = objects.get(f"sha256:{digest}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "task.py"
        copy.write_bytes(code)
        return user_task(f"{copy}:{function}")


def user_task(reference: str) -> Task:
    """The task that `reference` makes, its source recorded as file:<sha256 of the file>.

    Raises InvalidInput, in one line, where the file or function is missing, fails, or returns something else.
    """
    location, _, function = reference.rpartition(":")
    path = Path(location)
    if not path.is_file():
        raise InvalidInput(f"task {reference}: {path} is no file; give path/to/file.py:function")
    code = path.read_bytes()
    digest = hashlib.sha256(code).hexdigest()
    name = f"esper_user_task_{digest[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInput(f"task {reference}: {path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling in the person's file look their module up by name
    sys.path.insert(
        0, str(path.parent.resolve())
    )  # as `python path/to/file.py` does, so that it can import its neighbours
    try:
        spec.loader.exec_module(module)
        make = vars(module).get(function)
        made = make() if callable(make) else None
    except EsperError as error:
        place = raised_at(error)
        if place is None or str(error).startswith(f"{place.file}:"):
            raise
        raise InvalidInput(f"{place}: {error}") from error
    except (Exception, SystemExit) as error:  # a person's code may raise anything, and each is an error of that code
        raise InvalidInput(f"task {reference} failed with {told(error)}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    if not callable(make):
        known = [each for each, value in vars(module).items() if callable(value)]
        hint = meant(function, known, "give path/to/file.py:function")
        raise InvalidInput(f"task {reference}: {path} defines no function {function}; {hint}")
    if not isinstance(made, Task):
        raise InvalidInput(f"task {reference}: {function}() returned {type(made).__name__}; return an esper Task")
    return replace(made, source=f"file:{digest}", source_code=code)


__all__ = ["ACCURACY", "BUILTIN", "NATS", "Metric", "Samples", "Site", "Task", "load_task", "recorded_task"]
