"""Writes docs/api.md: what a script may call, from the signatures and docstrings in the code; nothing is imported.

python -m tests.api
"""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/api.md"
HEAD = """\
# What a script may call

Made by `python -m tests.api` from the signatures and docstrings of the code. What is not on this page is Esper's own
business, and may change with any version. Guides: [your own training loop](your-training.md), [tasks](tasks.md),
[taking the network out](network.md),
[every view](schema.md).
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A name as a script imports it, and where it is defined."""

    name: str
    file: str
    defined: str
    methods: tuple[str, ...] = ()
    """Those that a script calls; a library or the loop engine calls the others."""


LINE = 110
GROWTH = "Growth"
"""What `esper.grow` gives; nobody makes one otherwise."""

_ENGINE = ("step", "batches", "log", "before_batch", "after_backward", "before_step", "after_step", "end_epoch")

PUBLIC = (
    Shown("esper.grow", "esper/weatherlight/grow.py", "grow"),
    Shown(GROWTH, "esper/weatherlight/growth.py", "Growth", ("run_id", "epochs", "report", "stop", *_ENGINE)),
    Shown("esper.Metric", "esper/metric.py", "Metric"),
    Shown("esper.load", "esper/cli/load.py", "load"),
    Shown("esper.grown_source", "esper/cli/load.py", "grown_source"),
    Shown("esper.lightning.GrowthCallback", "esper/lightning.py", "GrowthCallback", ("run",)),
    Shown("esper.huggingface.GrowthCallback", "esper/huggingface.py", "GrowthCallback", ("run",)),
    Shown("esper.tolaria.tasks.Task", "esper/tolaria/tasks/task.py", "Task", ("from_samples",)),
    Shown("esper.tolaria.tasks.Site", "esper/kasmina/sites.py", "Site"),
    Shown("projections.open_history", "projections/__init__.py", "open_history"),
    Shown("projections.open_sample", "projections/__init__.py", "open_sample"),
    Shown(
        "projections.history.History",
        "projections/history.py",
        "History",
        ("sql", "execute", "connection", "refresh", "close"),
    ),
    Shown("projections.questions.ask", "projections/questions.py", "ask"),
    Shown("streams.feed.EventFeed", "streams/feed/feed.py", "EventFeed", ("state_dict", "load_state_dict")),
)


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(section(shown) for shown in PUBLIC)])


def section(shown: Shown) -> str:
    """A name with its signature, what it does, and of a class the methods that a script calls."""
    node = found(ROOT / shown.file, shown.defined)
    parts = [f"## {shown.name}\n", _described(node, shown.name)]
    if isinstance(node, ast.ClassDef):
        bases = [node] if shown.name != GROWTH else [found(ROOT / "esper/tolaria/engine.py", "Session"), node]
        methods = {
            each.name: each for base in reversed(bases) for each in base.body if isinstance(each, ast.FunctionDef)
        }
        title = shown.name.rpartition(".")[2]
        parts += [f"### {title}.{name}\n\n{_described(methods[name], name)}" for name in shown.methods]
    return "\n".join(parts)


def found(file: Path, name: str) -> ast.ClassDef | ast.FunctionDef:
    """The definition of `name` in a file; raises LookupError where there is none."""
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
    raise LookupError(f"{file} defines no {name}")


def _described(node: ast.ClassDef | ast.FunctionDef, name: str) -> str:
    said = inspect.cleandoc(ast.get_docstring(node) or "")
    return f"{_signature(node, name)}{said}\n"


def _signature(node: ast.ClassDef | ast.FunctionDef, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        made = next((each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)
        fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
        given = _arguments(made) if made is not None else [ast.unparse(each) for each in fields]
        return "" if name == GROWTH else _call(name, given, "")
    if any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list):
        return ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return _call(name, _arguments(node), returns)


def _call(name: str, given: list[str], returns: str) -> str:
    line = f"{name}({', '.join(given)}){returns}"
    if len(line) > LINE:
        line = "\n".join([f"{name}(", *(f"    {each}," for each in given), f"){returns}"])
    return f"```python\n{line}\n```\n\n"


def _arguments(node: ast.FunctionDef) -> list[str]:
    """Each argument as it is written, with its type and what it is by default; `self` is left out."""
    every = node.args
    defaults = [None] * (len(every.args) - len(every.defaults)) + every.defaults
    given = [_argument(each, default) for each, default in zip(every.args, defaults, strict=True) if each.arg != "self"]
    named = [_argument(each, default) for each, default in zip(every.kwonlyargs, every.kw_defaults, strict=True)]
    star = ["*" if every.vararg is None else f"*{ast.unparse(every.vararg)}"] if named or every.vararg else []
    return [*given, *star, *named, *([f"**{ast.unparse(every.kwarg)}"] if every.kwarg else [])]


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    text = ast.unparse(argument)
    return text if default is None else f"{text} = {ast.unparse(default)}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}\n")
