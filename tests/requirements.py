"""Writes docs/requirements.md from docs/requirements.toml and the `requirement` marks in the tests.

    python -m tests.requirements

A mark names what a test shows: `@pytest.mark.requirement("R-KAS-24")`, more than one id where it shows more.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "docs/requirements.toml"
PAGE = ROOT / "docs/requirements.md"
STATES = ("built", "partly", "not built", "superseded")
HEAD = """# Requirements

Comments and tests cite these by their ids: `R-KAS-24`, `ruling 7`. The requirements were distilled from the public
design documents of the original system, which also gave most names of metrics, thresholds and budgets ("the
original's" in comments). Where the two disagree a ruling goes first. What the original did with Redis or a write-ahead
file is the log here; its 280 bytes for every message became ruling 22.

`python -m tests.requirements` writes this page from `docs/requirements.toml` and the marks in the tests
(`@pytest.mark.requirement("R-KAS-24")`). `tests/unit/docs/test_requirements.py` sees to it that it is up to date, that
every id cited is here, that every file named exists, and that whatever is called built has a test. **Built** means that
all of the sentence holds.
"""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement: its sentence, how far it is built, and where to look."""

    id: str
    text: str
    state: str = "built"
    why: str = ""
    """What is missing or what took its place; empty where all is built."""
    code: str = ""
    """A file or folder of the repository, empty where there is none."""


def read(source: Mapping[str, dict]) -> dict[str, list[Requirement]]:
    """The requirements of the parsed requirements.toml, by the title of their section.

    Raises:
        ValueError: A state does not exist, or a requirement that is not built does not say why.
    """
    sections: dict[str, list[Requirement]] = {}
    for section, content in source.items():
        if section == "rulings":
            continue
        entries = dict(content)
        found = sections.setdefault(entries.pop("title"), [])
        for number, fields in entries.items():
            found.append(requirement := Requirement(f"{section}-{number}", **fields))
            if requirement.state not in STATES:
                raise ValueError(f"{requirement.id} is {requirement.state!r}; choose one of {', '.join(STATES)}")
            if (requirement.state == "built") == bool(requirement.why):
                raise ValueError(f"{requirement.id} is {requirement.state}: exactly what is not built needs a `why`")
    return sections


def marked_tests(folder: Path = ROOT / "tests") -> dict[str, list[str]]:
    """The tests that show each requirement, as `unit/kasmina/test_gates.py::test_name`, by its id."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        for test in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef):
                for requirement in _marks(test):
                    found.setdefault(requirement, []).append(f"{path.relative_to(folder)}::{test.name}")
    return found


def _marks(test: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for decorator in test.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.requirement":
            yield from map(ast.literal_eval, decorator.args)


def page(source: Mapping[str, dict], tests: Mapping[str, list[str]]) -> str:
    """The text of docs/requirements.md."""
    sections = read(source)
    counts = [[sum(each.state == state for each in entries) for state in STATES] for entries in sections.values()]
    lines = [HEAD, f"| | {' | '.join(STATES)} |", "|---|" + "--:|" * len(STATES)]
    for title, numbers in zip(sections, counts, strict=True):
        lines.append(f"| {title} | {' | '.join(map(str, numbers))} |")
    lines.append(f"| **All** | {' | '.join(f'**{sum(column)}**' for column in zip(*counts, strict=True))} |")
    lines += ["", "## Rulings", "", "| | |", "|---|---|"]
    lines += [f"| Ruling {number} | {text} |" for number, text in source["rulings"].items()]
    for title, entries in sections.items():
        lines += ["", f"## {title}", "", "| | Requirement | State | Where | Tests |", "|---|---|---|---|---|"]
        lines += [_row(each, tests.get(each.id, [])) for each in entries]
    return "\n".join(lines) + "\n"


def _row(requirement: Requirement, tests: list[str]) -> str:
    state = f"{requirement.state}: {requirement.why}" if requirement.why else requirement.state
    where = f"`{requirement.code}`" if requirement.code else ""
    return (
        f"| {requirement.id} | {requirement.text} | {state} | {where} | {'<br>'.join(f'`{test}`' for test in tests)} |"
    )


def source() -> dict[str, dict]:
    """What docs/requirements.toml holds."""
    return tomllib.loads(SOURCE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    PAGE.write_text(page(source(), marked_tests()), encoding="utf-8")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}\n")
