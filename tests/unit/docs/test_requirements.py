"""docs/requirements.md says how far each requirement is built, and cannot drift from the code and its tests."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests import requirements

ROOT = Path(__file__).parents[3]


@cache
def marked() -> dict[str, list[str]]:
    """The tests by the requirements that they show: half a second, which only who asks is to spend."""
    return requirements.marked_tests()


ALL = {each.id: each for entries in requirements.read(requirements.source()).values() for each in entries}


def test_the_page_is_what_the_marks_and_the_table_give():
    """After a change of either: `python -m tests.requirements`."""
    written = requirements.PAGE.read_text(encoding="utf-8")

    assert written == requirements.page(requirements.source(), marked())


def test_every_marked_requirement_exists():
    assert {requirement: tests for requirement, tests in marked().items() if requirement not in ALL} == {}


def test_what_is_built_has_a_test():
    built = [each.id for each in ALL.values() if each.state == "built"]

    assert len(built) > 100
    assert [requirement for requirement in built if requirement not in marked()] == []


def test_what_is_not_built_has_none():
    assert [each.id for each in ALL.values() if each.state == "not built" and each.id in marked()] == []


def test_every_place_that_is_named_exists():
    named = [each for each in ALL.values() if each.code]

    assert len(named) > 100
    assert [(each.id, each.code) for each in named if not (ROOT / each.code).exists()] == []


def test_a_state_that_does_not_exist_and_one_without_a_reason_are_refused():
    def table(**fields):
        return {"R-X": {"title": "X", "1": {"text": "It works.", **fields}}}

    assert requirements.read(table())["X"][0].state == "built"
    with pytest.raises(ValueError, match="R-X-1 is 'done'; choose one of built, partly, not built, superseded"):
        requirements.read(table(state="done"))
    with pytest.raises(ValueError, match="R-X-1 is partly: exactly what is not built needs a `why`"):
        requirements.read(table(state="partly"))
    with pytest.raises(ValueError, match="R-X-1 is built"):
        requirements.read(table(why="half of it"))


def test_marks_are_read_from_the_tests(tmp_path):
    (tmp_path / "test_one.py").write_text(
        "@pytest.mark.requirement('R-X-1', 'R-X-2')\n@pytest.mark.serial\nasync def test_a(): ...\n"
        "@pytest.mark.parametrize('R-X-3', [])\ndef test_b(): ...\n"
        "@pytest.mark.requirement('R-X-2')\ndef test_c(): ...\n"
    )

    assert requirements.marked_tests(tmp_path) == {
        "R-X-1": ["test_one.py::test_a"],
        "R-X-2": ["test_one.py::test_a", "test_one.py::test_c"],
    }


def _numbers(text: str, first: str, *, separator: str) -> set[int]:
    """1, 2 and 23 of `1, 2 and 23`; 3 to 9 of `3 to R-SEC-9`, where the separator says that a range is meant."""
    found = [int(number) for number in re.findall(r"\d+", text)]
    return set(range(int(first), found[-1] + 1)) if separator in text else set(found)


def _cited(text: str) -> set[str]:
    """The ids of requirements and rulings in a text, ranges written out."""
    cited = set()
    for kind, numbers, first in re.findall(r"\bR-([A-Z]+)-((\d+)(?: to (?:R-[A-Z]+-)?\d+)?)", text):
        cited |= {f"R-{kind}-{number}" for number in _numbers(numbers, first, separator=" to ")}
    for numbers, first in re.findall(r"\b[Rr]ulings? ((\d+)(?:(?:, | and )\d+)*)", text):
        cited |= {f"Ruling {number}" for number in _numbers(numbers, first, separator=" to ")}
    return cited


def test_everything_that_is_cited_can_be_looked_up():
    folders = ("contracts", "deploy", "docs", "esper", "projections", "streams", "tests")
    suffixes = {".py", ".proto", ".sql", ".md", ".toml"}
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    cited = {each for path in sources if path != Path(__file__) for each in _cited(path.read_text(encoding="utf-8"))}
    known = set(ALL) | {f"Ruling {number}" for number in requirements.source()["rulings"]}

    assert len(cited) > 100
    assert cited - known == set()


def test_ranges_and_lists_of_ids_are_all_found():
    assert _cited("R-SEC-3 to R-SEC-5, rulings 1, 2 and 23") == {
        "R-SEC-3", "R-SEC-4", "R-SEC-5", "Ruling 1", "Ruling 2", "Ruling 23"
    }  # fmt: skip
