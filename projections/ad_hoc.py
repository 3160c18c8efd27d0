"""A query that a person typed: checked that it only reads, answered in blocks of rows, and cancelled on request."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import duckdb

from esper.errors import InvalidInput
from projections import schema
from projections.schema import Relation
from projections.views import AT_STEP

if TYPE_CHECKING:
    from projections.history import History

_OWN: Final = re.compile(r'"decided\.(\w+)"')
"""A table that a view is made of, which DuckDB offers for a name that is none: the view has the same name."""
BLOCK: Final = 2_000
"""Rows of an answer that are held, aligned and shown at once."""
_SELECT, _EXPLAIN = duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN
_PIVOT: Final = duckdb.StatementType.MULTI
"""DuckDB makes several statements of a PIVOT."""
_STRING, _COMMENT = duckdb.token_type.string_const, duckdb.token_type.comment
_NODES: Final = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""What a parsed query that only reads consists of; a WITH may hold a COPY or an INSERT and be a SELECT."""
_FUNCTIONS: Final = frozenset(
    {
        *AT_STEP,
        *(
            "range",
            "generate_series",
            "unnest",
            "repeat",
            "repeat_row",
            "json_each",
            "json_tree",
            "summary",
            "query_table",
        ),
        *("read_parquet", "parquet_scan", "parquet_schema", "parquet_metadata", "parquet_file_metadata"),
        *("pragma_table_info", "pragma_show", "pragma_version", "pragma_database_size", "pg_timezone_names"),
        *(f"duckdb_{what}" for what in ("columns", "databases", "functions", "keywords", "memory", "schemas")),
        *(f"duckdb_{what}" for what in ("settings", "tables", "types", "views")),
    }
)
"""Functions that may stand behind FROM: none runs SQL out of a string or does something."""
_WRITING: Final = frozenset(
    {
        *("alter", "analyze", "attach", "begin", "call", "checkpoint", "commit", "copy", "create", "deallocate"),
        *("delete", "detach", "drop", "execute", "export", "force", "import", "insert", "install", "load", "merge"),
        *("pragma", "prepare", "reset", "rollback", "set", "truncate", "update", "use", "vacuum"),
    }
)
"""Words that a PIVOT may not have but in quotes: it cannot be looked into."""
_RUNNING: Final = frozenset({"query", "json_execute_serialized_sql", "python_map_function", "write_log"})


def check_reads(query: str) -> None:
    """Raise InvalidInput where `query` is not one statement that reads: a history is not changed by asking it.

    By how DuckDB parses it, because its kind says too little: `WITH x AS (COPY …) FROM x` is a SELECT.
    """
    with wrong_query():
        statements = duckdb.extract_statements(query)
    if len(statements) != 1:
        raise InvalidInput(f'the query has {len(statements)} statements; ask one, such as `esper sql "from runs"`')
    kind = statements[0].type
    if kind == _SELECT:
        _check_parsed(query)
    elif kind == _EXPLAIN:
        check_reads(_explained(query))
    elif kind == _PIVOT:
        _check_words(query)
    else:
        raise _does_more(kind.name)


def _does_more(what: str) -> InvalidInput:
    return InvalidInput(
        f"`esper sql` only reads, and {what} does more; ask with SELECT, FROM, DESCRIBE, SUMMARIZE or PIVOT, and to "
        "keep an answer use `--json > FILE`"
    )


def _check_parsed(query: str) -> None:
    """Look at every part of a query as DuckDB parsed it."""
    with wrong_query(), duckdb.connect(":memory:") as connection:
        found = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchone()
    parsed = json.loads(found[0]) if found else {"error": True}
    if parsed["error"]:
        raise _does_more("what cannot be looked into")
    parts: list[Any] = [parsed["statements"]]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            kind = str(part.get("type", ""))
            if kind.endswith("_NODE") and kind not in _NODES:
                raise _does_more(kind.removesuffix("_NODE").removesuffix("_QUERY"))
            if (
                kind == "TABLE_FUNCTION"
                and (name := str(part["function"].get("function_name")).lower()) not in _FUNCTIONS
            ):
                raise _does_more(f"{name}()")
            parts.extend(part.values())
        elif isinstance(part, list):
            parts.extend(part)


def _check_function(name: str) -> None:
    if name not in _FUNCTIONS:
        raise _does_more(f"{name}()")


def _check_words(query: str) -> None:
    """Look at the words of a PIVOT."""
    for _, kind, word in _words(query):
        name = word.strip('"').lower()
        if kind != _STRING and (name in _RUNNING or (name in _WRITING and not word.startswith('"'))):
            raise _does_more(f"a PIVOT with {name.upper()}")


def _explained(query: str) -> str:
    """The query that an EXPLAIN is about."""
    content, words = query.encode(), _words(query)[1:]
    if words and words[0][2].lower() == "analyze":
        words = words[1:]
    rest = content[words[0][0] :].decode() if words else ""
    if rest.startswith("(") and not _parses(rest):  # its options
        end = next((place for place, _, word in words if word == ")"), len(content))
        rest = content[end + 1 :].decode()
    return rest


def _parses(query: str) -> bool:
    try:
        return len(duckdb.extract_statements(query)) == 1
    except duckdb.Error:
        return False


def _words(query: str) -> list[tuple[int, Any, str]]:
    """The words of a query without comments: where each begins in its bytes, its kind, and the word."""
    content, found = query.encode(), duckdb.tokenize(query)
    ends = [*(place for place, _ in found[1:]), len(content)]
    return [
        (place, kind, content[place:end].decode().strip())
        for (place, kind), end in zip(found, ends, strict=True)
        if kind != _COMMENT
    ]


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


class WrongQuery(InvalidInput):
    """A query that DuckDB refuses; `where` is the line of it and a caret below the place, empty where none is known."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.where = where


@contextmanager
def wrong_query() -> Iterator[None]:
    """DuckDB's errors as WrongQuery, in its own words."""
    try:
        yield
    except duckdb.Error as error:
        first, *more = str(error).split("\n\n")
        first = _OWN.sub(r'"\1"', first)
        where = next((each for each in more if each.startswith("LINE ") and each.rstrip().endswith("^")), "")
        raise WrongQuery(f"the query is wrong: {first}", where) from None


def cancel(history: History) -> None:
    """End the query that another thread waits for; DuckDB raises an error there."""
    history.interrupt()


def confine(history: History) -> None:
    """Settle what DuckDB does before a person's SQL is run: no bar in stdout after two seconds, and no setting changes.

    A notebook refuses the first. A history reads no files but its archive's in any case.
    """
    history.execute("SET enable_progress_bar = false")
    history.execute("SET lock_configuration = true")


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
