"""The tables of a projection's file, brought up to date: migrations by name, recorded in the file.

A file that has all of ours and no more is used. One that lacks some is migrated, or, where a migration needs events
that were folded before it, emptied and folded again. One that another Esper's migrations have shaped differently is
emptied too, because the log has everything; but one that is ahead of this Esper is refused: whoever made it may still
be using it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from esper.errors import InvalidInput
from projections.projection import REBUILD, Kept, Projection, Script

Execute = Callable[..., Any]

_ENGINE: Final = """
CREATE TABLE migrations (number INTEGER PRIMARY KEY, name VARCHAR NOT NULL, digest VARCHAR NOT NULL);
CREATE TABLE views (name VARCHAR PRIMARY KEY, digest VARCHAR NOT NULL);
CREATE TABLE offsets (
    topic VARCHAR NOT NULL, partition INTEGER NOT NULL, next_offset BIGINT NOT NULL, PRIMARY KEY (topic, partition)
)
"""


def migrate(execute: Execute, projection: Projection) -> list[str]:
    """Bring the file behind `execute` up to date, in one transaction; the names of what was applied.

    Raises InvalidInput for a file of a newer Esper.
    """
    ours = projection.migrations()
    execute("BEGIN")
    try:
        applied = _applied(execute)
        _refuse_newer(projection, applied or [], ours)
        due = _due(applied, ours)
        if due is None:
            _empty(execute)
            due = ours
        if due == ours:
            execute(_ENGINE)
        for script in due:
            execute(script.text)
            execute("INSERT INTO migrations VALUES (?, ?, ?)", [ours.index(script) + 1, script.name, script.digest])
        _renew_views(execute, projection)
        execute("COMMIT")
    except BaseException:
        execute("ROLLBACK")
        raise
    return [script.name for script in due]


def _refuse_newer(projection: Projection, applied: list[tuple[str, str]], ours: list[Script]) -> None:
    known = {script.name for script in ours}
    newer = [name for name, _ in applied if name not in known]
    if newer:
        raise InvalidInput(
            f"projection {projection.name} is a newer Esper's (it has the migration {newer[0]}): use that Esper, or "
            f"make it anew with `esper projections rebuild {projection.name}`"
        )


def refresh(execute: Execute, kept: Kept, touched: list[Any] | None) -> None:
    """Make the kept rows of these keys anew, of all for None."""
    only = "" if touched is None else f" WHERE list_contains(?, {kept.key})"
    values = [] if touched is None else [[touched]]
    execute(f"DELETE FROM {kept.table}{only}", *values)  # noqa: S608  names of ours
    execute(f"INSERT INTO {kept.table} SELECT * FROM {kept.view}{only}", *values)  # noqa: S608  as above


def _applied(execute: Execute) -> list[tuple[str, str]] | None:
    """Names and digests of what the file has, None where it is no file of this kind, empty for an empty one."""
    tables = {name for (name,) in execute("SELECT table_name FROM information_schema.tables").fetchall()}
    if "migrations" not in tables:
        return None if tables else []
    found: list[tuple[str, str]] = execute("SELECT name, digest FROM migrations ORDER BY number").fetchall()
    return found


def _due(applied: list[tuple[str, str]] | None, ours: list[Script]) -> list[Script] | None:
    """The migrations that are missing; None where the file has to be emptied."""
    if applied is None or applied != [(each.name, each.digest) for each in ours[: len(applied)]]:
        return None
    due = ours[len(applied) :]
    again = bool(applied) and any(script.text.startswith(REBUILD) for script in due)
    return None if again else due


def _renew_views(execute: Execute, projection: Projection) -> None:
    """Views are not migrated but replaced, and what is kept of them is made again."""
    have = dict(execute("SELECT name, digest FROM views").fetchall())
    scripts = projection.view_scripts()
    if have == {each.name: each.digest for each in scripts}:
        return
    for name in have:
        execute(f"DROP VIEW IF EXISTS {name}")
    execute("DELETE FROM views")
    for script in scripts:
        execute(f"CREATE VIEW {script.name} AS {script.text}")
        execute("INSERT INTO views VALUES (?, ?)", [script.name, script.digest])
    for kept in projection.kept:
        execute(f"CREATE OR REPLACE TABLE {kept.table} AS SELECT * FROM {kept.view}")  # noqa: S608  names of ours


def _empty(execute: Execute) -> None:
    query = "SELECT table_name, table_type FROM information_schema.tables"
    for name, kind in sorted(execute(query).fetchall(), key=lambda found: found[1] != "VIEW"):
        execute(f'DROP {"VIEW" if kind == "VIEW" else "TABLE"} "{name}"')
