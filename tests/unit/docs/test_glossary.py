"""The glossary has every code name and every word that the command prints, each in a line of its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import typer

from contracts.leyline.v1 import leyline_pb2 as leyline
from contracts.topics import BY_BODY
from esper.cli.app import HELP, app
from esper.cli.blueprints.kernels import _WORDS, Outcome
from esper.weatherlight.endpoint import ServiceState
from projections.views import VIEWS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
ENUMS = {
    "SEED_LIFECYCLE_STAGE_": leyline.SeedLifecycleStage,
    "SEED_LIFECYCLE_GATE_": leyline.SeedLifecycleGate,
    "CIRCUIT_BREAKER_STATE_": leyline.CircuitBreakerState,
    "FIELD_REPORT_OUTCOME_": leyline.FieldReportOutcome,
}
RUN_STATUSES = ("running", "completed", "interrupted", "failed", "died")


def terms(page: str) -> set[str]:
    """The first cells of the tables; a cell may name several terms, with a dot between them."""
    cells = re.findall(r"^\| (.+?) \| .+ \|$", page, re.MULTILINE)
    return {term.strip("`") for cell in cells for term in cell.split(" · ")} - {"Term"}


def parts() -> Iterator[str]:
    text = HELP.partition("The parts, by their code names:\n")[2].partition("\n\n")[0]
    yield from re.findall(r"^  (\w+) ", text, re.MULTILINE)


def command_words() -> Iterator[tuple[str, list[str], list[str]]]:
    """Of every command: its name, its options, and what may be chosen for them, as its help shows it: <safe|fast>."""

    def walk(name: str, command: typer.core.TyperCommand) -> Iterator[tuple[str, list[str], list[str]]]:
        options = [each.opts[0] for each in command.params if each.opts[0].startswith("--")]
        shown = command.get_help(typer.Context(command, info_name=name, terminal_width=1_000))
        yield name, options, "|".join(re.findall(r"<([\w-]+(?:\|[\w-]+)+)>", shown)).split("|")
        for inner, each in getattr(command, "commands", {}).items():
            yield from walk(inner, each)

    yield from walk("esper", typer.main.get_command(app))


def headers() -> set[str]:
    """The heads of all columns of the command's tables: the first argument of `table`, and the constants for it."""
    found = set[str]()
    for file in (ROOT / "esper/cli").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "table":
                found |= texts(node.args[0])
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                named = any("headers" in ast.unparse(each).lower() for each in targets)
                found |= texts(node.value) if named and node.value is not None else set()
    return found - {""}


def texts(node: ast.AST) -> set[str]:
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def enum_words() -> Iterator[str]:
    for prefix, enum in ENUMS.items():
        yield from (name.removeprefix(prefix) for name, _ in enum.items() if not name.endswith("UNSPECIFIED"))


def test_every_code_name_is_there():
    assert len(list(parts())) == 11
    assert set(parts()) - terms(PAGE) == set()


def test_every_option_is_there_and_every_choice_is_told():
    told = {word for line in PAGE.splitlines() for word in re.findall(r"[\w-]+", line)}
    names, options, choices = zip(*command_words(), strict=True)

    assert len(names) > 25
    assert {option for each in options for option in each} - {"--version"} - terms(PAGE) == set()
    assert {choice for each in choices for choice in each} - {""} - told == set()
    assert {"heuristic", "high-risk", "emergency", "token"} <= {choice for each in choices for choice in each}


def test_every_column_is_there():
    assert {"blueprint", "alpha", "gain over control", "health port", "topic/partition"} <= headers()
    assert headers() - terms(PAGE) == set()


@pytest.mark.parametrize(
    "words",
    [
        set(enum_words()) - {"UNKNOWN"},
        set(VIEWS),
        set(BY_BODY),
        set(RUN_STATUSES),
        set(get_args(ServiceState)),
    ],
    ids=["enums", "views", "events", "runs", "processes"],
)
def test_every_state_view_and_event_is_there(words):
    assert len(words) > 3
    assert words - terms(PAGE) == set()


def test_every_outcome_of_a_kernel_is_told():
    (line,) = re.findall(r"^\| outcome \| (.+) \|$", PAGE, re.MULTILINE)

    assert {_WORDS.get(word, word) for word in get_args(Outcome)} - set(
        re.split(r", (?:or )?", line.partition(": ")[2])
    ) == set()


def test_a_term_is_one_line():
    for line in PAGE.splitlines():
        assert not line.startswith("|") or line.count(" | ") == 1 or set(line) <= set("|-")
