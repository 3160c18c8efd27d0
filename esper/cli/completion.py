"""Completion of SQL over a history: columns of the views that the query names, then views, keywords and functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Final

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from projections import schema
from projections.history import History
from projections.schema import Relation
from projections.views import VIEWS

_WORD: Final = re.compile(r"[\w.\\]+$")
_SOURCE: Final = re.compile(r"\b(?:from|join)\s+([\w.]+)(?:\s+(?:as\s+)?(\w+))?", re.IGNORECASE)
_KEYWORDS: Final = frozenset(
    {"where", "join", "left", "right", "full", "inner", "group", "order", "limit", "on", "using"}
)
"""What may stand behind a view's name and is not an alias."""


class SqlCompleter(Completer):
    """Completes what is being typed; the schema is read once, when it is first needed."""

    def __init__(self, history: History) -> None:
        self._cursor = history.connection.cursor()

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Everything that the word before the cursor may become, what is likeliest first."""
        found = _WORD.search(document.text_before_cursor)
        word = found[0] if found else ""
        if not word and not complete_event.completion_requested:
            return
        seen: set[str] = set()
        for text, about in self._offers(document.text, word):
            if text.lower().startswith(word.lower()) and text not in seen:
                seen.add(text)
                yield Completion(text, start_position=-len(word), display_meta=about)

    def _offers(self, query: str, word: str) -> Iterator[tuple[str, str]]:
        if word.startswith("\\"):
            yield from (("\\d", "views"), ("\\q", "leave"), ("\\?", "help"))
            return
        named = self._named(query)
        owner, dot, _ = word.rpartition(".")
        if dot and owner in named:
            for column in named[owner].columns:
                yield f"{owner}.{column.name}", column.meaning
        likely = named.values() or [relation for name, relation in self._relations.items() if name in VIEWS]
        for relation in likely:
            yield from ((column.name, column.meaning) for column in relation.columns)
        for name, relation in self._relations.items():
            yield name, relation.meaning
        yield from self._words

    def _named(self, query: str) -> dict[str, Relation]:
        """The views that a query names, by their names and aliases."""
        named: dict[str, Relation] = {}
        for name, alias in _SOURCE.findall(query):
            relation = self._relations.get(name)
            if relation is not None:
                named[name] = relation
                if alias and alias.lower() not in _KEYWORDS:
                    named[alias] = relation
        return named

    @cached_property
    def _relations(self) -> dict[str, Relation]:
        return {relation.name: relation for relation in schema.all_relations(self._cursor)}

    @cached_property
    def _words(self) -> list[tuple[str, str]]:
        keywords = self._names("select keyword_name from duckdb_keywords() where keyword_category <> 'unreserved'")
        functions = self._names(
            "select distinct function_name from duckdb_functions() where function_name ~ '^[a-z_]+$'"
        )
        return [*((name, "") for name in keywords), *((name, "function") for name in functions)]

    def _names(self, query: str) -> Iterable[str]:
        return sorted({name for (name,) in self._cursor.execute(query).fetchall()})
