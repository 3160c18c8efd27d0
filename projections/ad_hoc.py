"""A query that a person typed: checked that it only reads, answered in blocks of rows, and cancelled on request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import duckdb

from esper.errors import InvalidInput
from projections import schema
from projections.schema import Relation

if TYPE_CHECKING:
    from projections.history import History

BLOCK: Final = 2_000
"""Rows of an answer that are held, aligned and shown at once."""
_READING: Final = frozenset(
    {
        duckdb.StatementType.SELECT,
        duckdb.StatementType.EXPLAIN,
        duckdb.StatementType.PRAGMA,
        duckdb.StatementType.CALL,
        duckdb.StatementType.MULTI,  # DuckDB makes several statements of a PIVOT
    }
)


def check_reads(query: str) -> None:
    """Raise InvalidInput where `query` is not one statement that reads: a history is not changed by asking it."""
    with wrong_query():
        statements = duckdb.extract_statements(query)
    if len(statements) != 1:
        raise InvalidInput(f'the query has {len(statements)} statements; ask one, such as `esper sql "from runs"`')
    if statements[0].type not in _READING:
        raise InvalidInput(
            f"`esper sql` only reads, and {statements[0].type.name} does more; to keep an answer, use `--json > FILE`"
        )


def blocks_of(history: History, query: str) -> tuple[list[str], Iterator[list[tuple[Any, ...]]]]:
    """The answer's columns, and its rows in blocks: an answer may be larger than the memory.

    Raises InvalidInput, also while the rows are read, where the query is wrong.
    """
    with wrong_query():
        answer = history.execute(query)

    def blocks() -> Iterator[list[tuple[Any, ...]]]:
        with wrong_query(), history.naming_damage():
            while rows := answer.fetchmany(BLOCK):
                yield rows

    return [column[0] for column in answer.description or ()], blocks()


@contextmanager
def wrong_query() -> Iterator[None]:
    """DuckDB's errors as InvalidInput, in its own words."""
    try:
        yield
    except duckdb.Error as error:
        first, *_ = str(error).split("\n\n")
        raise InvalidInput(f"the query is wrong: {first}") from None


def cancel(history: History) -> None:
    """End the query that another thread waits for; DuckDB raises an error there."""
    history.interrupt()


def draw_no_progress(history: History) -> None:
    """Keep DuckDB from drawing a bar into stdout after two seconds. A notebook refuses the setting."""
    history.execute("SET enable_progress_bar = false")


def relations(history: History) -> list[Relation]:
    """All views and tables that a query can name, on a cursor of its own, so that another thread may ask."""
    return schema.all_relations(history.connection.cursor())


def relation(history: History, name: str) -> Relation:
    """The view or table that a person names; raises InvalidInput where there is none."""
    return schema.find(history.connection.cursor(), name)


def keywords(history: History) -> list[str]:
    """The keywords of DuckDB's SQL that mean something by themselves, in order."""
    return _names(history, "select keyword_name from duckdb_keywords() where keyword_category <> 'unreserved'")


def functions(history: History) -> list[str]:
    """The functions of DuckDB's SQL that are called by a name, in order."""
    return _names(history, "select distinct function_name from duckdb_functions() where function_name ~ '^[a-z_]+$'")


def _names(history: History, query: str) -> list[str]:
    return sorted({name for (name,) in history.cursor(query).fetchall()})
