"""Where in a person's own code something stands: the line that an error is about, as `FILE:LINE`.

A person's own code is whatever lies neither in Esper nor in a library. Free of torch.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Final

from esper.errors import InvalidInput
from esper.leyline.names import meant

_ROOT: Final = Path(__file__).parents[2]
_NOT_OWN: Final = (
    *(f"{_ROOT / room}/" for room in ("esper", "streams", "projections", "contracts")),
    f"{sysconfig.get_path('stdlib')}/",
    "<",
)
_LIBRARIES: Final = ("/site-packages/", "/dist-packages/")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file; `function` is what it stands in."""

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        """As editors and terminals follow it: FILE:LINE."""
        return f"{self.file}:{self.line}"

    def argument(self, name: str) -> Place:
        """The line of the argument called `name` of the call that this place is of; the place itself if none is."""
        for call in sorted(_calls_at(self.file, self.line), key=lambda call: (call.end_lineno or 0) - call.lineno):
            for keyword in call.keywords:
                if keyword.arg == name:
                    return replace(self, line=keyword.value.lineno)
        return self


def _calls_at(file: str, line: int) -> list[ast.Call]:
    """The calls of a file that this line is part of; none where the file cannot be read."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in found if call.lineno <= line <= (call.end_lineno or call.lineno)]


def is_own(file: str) -> bool:
    """Whether a file is a person's own."""
    return not file.startswith(_NOT_OWN) and not any(folder in file for folder in _LIBRARIES)


def caller() -> Place | None:
    """The innermost line of a person's own that is being carried out; None where only Esper's and libraries' are."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the stack, without reading any source
    while frame is not None:
        if is_own(frame.f_code.co_filename):
            return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return None


def raised_at(error: BaseException) -> Place | None:
    """The deepest line of a person's own that an error came through; None where it came through none."""
    if isinstance(error, SyntaxError) and error.filename and is_own(error.filename):
        return Place(error.filename, error.lineno or 1)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own(frame.filename)]
    return Place(own[-1].filename, own[-1].lineno or 1, own[-1].name) if own else None


def defined_at(what: Callable[..., Any]) -> Place | None:
    """Where a person defined a function, method, lambda or class; None for what is not their own."""
    plain = inspect.unwrap(what.func if isinstance(what, functools.partial) else what)
    for candidate in (plain, getattr(plain, "__func__", None), getattr(type(plain), "forward", None)):
        code = getattr(candidate, "__code__", None)
        if code is not None and is_own(code.co_filename):
            return Place(code.co_filename, code.co_firstlineno, code.co_name)
    return None


def told(error: BaseException) -> str:
    """What was raised and where, in one line: the deepest line of a person's own code, or else the deepest at all."""
    deepest = [Place(each.filename, each.lineno or 1, each.name) for each in traceback.extract_tb(error.__traceback__)]
    return raised(error, raised_at(error) or (deepest[-1] if deepest else None))


def raised(error: BaseException, place: Place | None) -> str:
    """What was raised, in one line, and the place."""
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    if place is None:
        return what
    return f"{what} ({place}" + (f", in {place.function})" if place.function else ")")


def check_function(path: Path, function: str) -> None:
    """Raise InvalidInput where a Python file cannot be read as one or defines no `function`; nothing of it is run."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        raise InvalidInput(f"{path}:{error.lineno or 1}: SyntaxError: {error.msg}") from None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read as Python: {error}") from None
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(names=[ast.alias(name="*")]):
                return  # whatever that brings
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.Name(id=name, ctx=ast.Store())
            ):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name)
    if function not in names:
        listed = ", ".join(sorted(each.name for each in tree.body if isinstance(each, ast.FunctionDef))) or "none"
        raise InvalidInput(f"{path} defines no function {function!r}; {meant(function, names, f'it has {listed}')}")
