"""What views and columns mean: out of `sql/meanings.toml`, the comments of the views, and those of the contracts."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from projections.columns import BODIES, column_name

PROTOS: Final = ("event", "leyline")
_MESSAGE: Final = re.compile(r"message (\w+) \{")
_FIELD: Final = re.compile(r"(?:repeated |optional )?[\w.<>, ]+? (\w+) = \d+;(?: // (.*))?$")
_UNIT: Final = re.compile(r"^(.*) \[([^\]]+)\]$", re.DOTALL)
_NAMED: Final = re.compile(r"_(ms|s|ns|us)(?=_|$)|(bytes)|(flops)$")
"""How a column's name says its unit."""
_UNITS: Final = {"us": "µs", "flops": "FLOPs"}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a column holds, and in which unit; empty for a bare number or a text."""

    text: str
    unit: str


def of_column(relation: str, column: str) -> Meaning | None:
    """What `column` of a view, or of a table of `log`, means; None where nobody has said so."""
    own = _said().get(relation, {}).get(column)
    text = own or _of_field(relation, column) or _said()["any"].get(column)
    if text is None:
        return None
    stated = _UNIT.match(text)
    if stated is not None:
        return Meaning(stated[1], stated[2])
    named = _NAMED.search(column)
    unit = next((group for group in named.groups() if group), "") if named else ""
    return Meaning(text, _UNITS.get(unit, unit))


def of_relation(relation: str) -> str | None:
    """What a view or table holds: the comment above its SQL, or what `[tables]` says; None where neither does."""
    said = _said()["tables"].get(relation)
    file = resources.files("projections").joinpath("sql", f"{relation}.sql")
    if said is not None or not file.is_file():
        return said
    lines = file.read_text("utf-8").splitlines()
    end = next((place for place, line in enumerate(lines) if not line.startswith("--")), len(lines))
    return " ".join(line.removeprefix("--").strip() for line in lines[:end]).strip() or None


def _of_field(table: str, column: str) -> str | None:
    """The contract's comment on the body field that a column of `log` holds."""
    if table not in BODIES:
        return None
    return _field_comments().get(BODIES[table].name, {}).get(_fields(table).get(column, ""))


@cache
def _fields(table: str) -> dict[str, str]:
    return {column_name(field): field.name for field in BODIES[table].fields}


@cache
def _said() -> dict[str, dict[str, str]]:
    text = resources.files("projections").joinpath("sql", "meanings.toml").read_text("utf-8")
    return tomllib.loads(text)


@cache
def _field_comments() -> dict[str, dict[str, str]]:
    """The comment behind every field of every message, where there is one."""
    found: dict[str, dict[str, str]] = {}
    for name in PROTOS:
        message = ""
        for line in resources.files("contracts.leyline.v1").joinpath(f"{name}.proto").read_text("utf-8").splitlines():
            if opened := _MESSAGE.match(line.strip()):
                message = opened[1]
            elif (field := _FIELD.match(line.strip())) and field[2]:
                found.setdefault(message, {})[field[1]] = field[2]
    return found
