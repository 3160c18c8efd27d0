"""The command line holds no SQL: what it asks of a history is a named query of `projections`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

CLI = Path(__file__).parents[3] / "esper" / "cli"
FILES = sorted(CLI.rglob("*.py"))
ASKING = {"cursor", "execute", "executemany", "sql"}
QUERY = re.compile(
    r"\bselect\b.+\bfrom\b|\bfrom log\.|\b(order|group) by\b|\bunion all\b|\bwhere \w+ =", re.IGNORECASE | re.DOTALL
)


def sql_in(source: str) -> list[str]:
    """Calls that ask a database, and texts that read as SQL; documentation and examples for people are neither."""
    tree = ast.parse(source)
    shown = {id(part) for node in ast.walk(tree) for text in _shown(node) for part in ast.walk(text)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ASKING:
            found.append(f"{node.lineno}: .{node.func.attr}(")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in shown:
            found += [f"{node.lineno}: {node.value!r}"] if QUERY.search(node.value) else []
    return found


def _shown(node: ast.AST) -> list[ast.AST]:
    """Texts for people that may quote a query: docstrings, help, and what names `esper sql` itself."""
    if isinstance(node, ast.Expr):
        return [node.value] if isinstance(node.value, ast.Constant) else []
    if isinstance(node, ast.Call):
        return [word.value for word in node.keywords if word.arg in {"epilog", "help"}]
    quotes = isinstance(node, ast.Constant | ast.JoinedStr) and "esper sql" in ast.unparse(node)
    return [node] if quotes else []


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(CLI)) for file in FILES])
def test_a_file_of_the_command_line_holds_no_sql(file):
    assert sql_in(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "history.execute(query)",
        "history.connection.cursor()",
        "history.sql(f'{x}')",
        "query = 'select run_id from log.run_started'",
        "query = 'SELECT log_raw FROM log.x WHERE run_id = ? ORDER BY log_offset'",
        "query = f'from {view} where run_id = ?'",
        "WORDS = 'WITH a AS (SELECT 1) SELECT * FROM a'",
    ],
)
def test_sql_is_found(source):
    assert sql_in(source) != []
