"""The schema that people ask: every view and table of a history with its columns, their types, meanings and units."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from esper.errors import InvalidInput
from projections import meanings
from projections.columns import TABLES
from projections.quoting import quoted
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
    return Relation(name, meanings.of_relation(own) or "", columns)


def _column(relation: str, name: str, type_: Any) -> Column:
    said = meanings.of_column(relation, name) or meanings.Meaning("", "")
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
