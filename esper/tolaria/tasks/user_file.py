"""`path/to/file.py:function`: a person's own model, data and sites. The function takes nothing and returns a Task."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from esper.errors import EsperError, InvalidInput
from esper.leyline.objects import ObjectStore
from esper.tolaria.tasks.task import Task


def recorded_user_task(reference: str, source: str, objects: ObjectStore) -> Task:
    """The task as it was when a run recorded its `source`: the file, or what the run kept of it where that has changed.

    Raises InvalidInput where neither is there, and as `user_task` does.
    """
    location, _, function = reference.rpartition(":")
    path, digest = Path(location), source.removeprefix("file:")
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
        return user_task(reference)
    code = objects.get(f"sha256:{digest}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
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
    except EsperError:
        raise
    except (Exception, SystemExit) as error:  # a person's code may raise anything, and each is an error of that code
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InvalidInput(f"task {reference}: {path} failed with {what}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    if not callable(make):
        raise InvalidInput(f"task {reference}: {path} defines no function {function}")
    if not isinstance(made, Task):
        raise InvalidInput(f"task {reference}: {function}() returned {type(made).__name__}; return an esper Task")
    return replace(made, source=f"file:{digest}", source_code=code)
