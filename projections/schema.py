"""The schema that people ask: every view and table of a history with its columns, their types, meanings and units.

Meanings are out of `sql/meanings.toml`, the comments of the views, and those of the contracts.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from esper.errors import InvalidInput
from projections.columns import BODIES, TABLES, column_name, quoted
from projections.views import VIEWS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection


_UNIONS: Final = ("every", "facts")


_PRIVATE: Final = ("attached_stages",)


"""What the fold looks up in, and nobody asks."""


_TABLE_MACROS: Final = (
    "select function_name, parameters from duckdb_functions() "
    "where function_type = 'table_macro' and not internal order by function_name"
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a view; `meaning` and `unit` are empty where nobody has said what it is."""

    name: str
    type: str
    meaning: str
    unit: str


@dataclass(frozen=True, slots=True)
class Relation:
    """One view or table, named as a query names it."""

    name: str
    meaning: str
    columns: tuple[Column, ...]


def relations(connection: Connection) -> dict[str, list[Relation]]:
    """All views and tables: the readable views, the fold, and the log's own tables, each group in its order."""
    found = connection.execute("select view_name from duckdb_views() where not internal and schema_name = 'main'")
    names = {name for (name,) in found.fetchall()}
    tables = connection.execute("select table_name from duckdb_tables() where schema_name = 'main'").fetchall()
    folds = sorted((names | {name for (name,) in tables}) - {*VIEWS, *_PRIVATE})
    macros = connection.execute(_TABLE_MACROS).fetchall()
    return {
        "views": [_relation(connection, name, name) for name in VIEWS],
        "fold": [
            *(_relation(connection, name, name) for name in folds),
            *(_relation(connection, f"{name}({', '.join(takes)})", name, f"{name}(0)") for name, takes in macros),
        ],
        "log": [_relation(connection, f"log.{name}", name) for name in (*_UNIONS, *TABLES)],
    }


def all_relations(connection: Connection) -> list[Relation]:
    """The same without the groups."""
    return [relation for group in relations(connection).values() for relation in group]


def find(connection: Connection, name: str) -> Relation:
    """The view or table that a person names, with or without `log.`; raises InvalidInput where there is none."""
    known = {each.name: each for each in all_relations(connection)}
    known |= {each.partition("(")[0]: relation for each, relation in known.items() if "(" in each}
    for word in (name, f"log.{name}"):
        if word in known:
            return known[word]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "`esper sql --schema` lists them"
    raise InvalidInput(f"there is no view {name!r}; {hint}")


def comments(connection: Connection) -> list[str]:
    """SQL that puts the meanings into a DuckDB's own catalogue, for whoever opens an exported folder without Esper."""
    statements = []
    named = [each for group in ("views", "fold") for each in relations(connection)[group] if "(" not in each.name]
    for relation in named:
        kind = "VIEW" if _is_view(connection, relation.name) else "TABLE"
        statements.append(f"COMMENT ON {kind} {relation.name} IS {quoted(relation.meaning)}")
        for column in relation.columns:
            text = f"{column.meaning} [{column.unit}]" if column.unit else column.meaning
            statements.append(f'COMMENT ON COLUMN {relation.name}."{column.name}" IS {quoted(text)}')
    return statements


def _is_view(connection: Connection, name: str) -> bool:
    found = connection.execute("select count(*) from duckdb_views() where view_name = ?", [name]).fetchone()
    return bool(found and found[0])


def _relation(connection: Connection, name: str, own: str, asked: str = "") -> Relation:
    shape = connection.sql(f"from {asked or name}")
    columns = tuple(_column(own, column, type_) for column, type_ in zip(shape.columns, shape.types, strict=True))
    return Relation(name, of_relation(own) or "", columns)


def _column(relation: str, name: str, type_: Any) -> Column:
    said = of_column(relation, name) or Meaning("", "")
    return Column(name, short_type(type_), said.text, said.unit)


def short_type(type_: Any) -> str:
    """A DuckDB type as a page shows it: a struct by the names of its fields."""
    if type_.id == "struct":
        return f"STRUCT({', '.join(name for name, _ in type_.children)})"
    if type_.id == "list":
        return f"{short_type(type_.children[0][1])}[]"
    if type_.id == "map":
        return f"MAP({', '.join(short_type(child) for _, child in type_.children)})"
    return str(type_).replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")


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
