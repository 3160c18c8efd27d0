"""The SQL that makes what people ask of a history: the readable views, the fold, and the tables that it looks up in.

All of it is text, `sql/<name>.sql`. A view is made when a query first names it, and what it reads before it.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Final

from contracts.topics import RUNS
from projections import vocabulary
from projections.columns import BODIES, TABLES, duckdb_columns
from projections.verdicts import VERDICT_COLUMNS

VIEWS: Final = (
    "runs",
    "epochs",
    "decisions",
    "commands",
    "transitions",
    "gates",
    "seeds",
    "reports",
    "checkpoints",
    "telemetry",
    "events",
    "blueprint_outcomes",
    "approvals",
    "artifacts",
)
"""The readable views that people are promised."""

UNIONS: Final = {"every": frozenset(BODIES), "facts": frozenset(RUNS.bodies)}
"""Views of `log` over many tables at once: every event, and the facts of runs."""

TABLES_OF_VIEWS: Final = ("cuts", "seed_slots")
"""A few rows a run that most views need: kept as tables, made anew when the log goes on."""

FOLD: Final = ("accepted_facts", "stops", "seed_figures")
"""What facts count, which runs are stopped, and what the fold of seeds is made of."""

AT_STEP: Final = ("fold_state_at", "fold_seeds_at")
"""The fold as of a step: `from fold_state_at(120)`."""

RELATIONS: Final = (*TABLES_OF_VIEWS, *FOLD, *AT_STEP, *VIEWS)

_SURVIVES: Final = """
CREATE MACRO survives(of_run, at_offset, at_sequence) AS NOT EXISTS (
    FROM cuts AS cut
    WHERE cut.run_id = of_run AND cut.log_offset > at_offset AND cut.to_sequence < at_sequence
)
"""
"""Whether no cut came after a fact and went behind it. The arguments name their table: `run_id` alone would be the
cut's. Its name in a view makes the view depend on `cuts`."""

DECIDED: Final = "decided"
"""The schema of what Python decided on opening: verdicts that the files lack, and seeds as a fork found them behind its
beginning."""


def read_sql(name: str) -> str:
    """The text of `sql/<name>.sql`, without the semicolon at its end; `{versions}` in it is the library's own fold."""
    folder = resources.files("projections").joinpath("sql")
    text = folder.joinpath(f"{name}.sql").read_text("utf-8").rstrip().removesuffix(";")
    return text.replace("{versions}", folder.joinpath("library", "versions.sql").read_text("utf-8"))


def settings() -> list[str]:
    """SQL that makes what does not depend on any file: settings, schemas, empty tables and the words of the views."""
    statements = ["SET TimeZone = 'UTC'", "SET parquet_metadata_cache = true"]
    statements += ["CREATE SCHEMA empty", "CREATE SCHEMA log", f"CREATE SCHEMA {DECIDED}"]
    statements.append(f"CREATE TABLE {DECIDED}.verdicts {VERDICT_COLUMNS}")
    statements.append(f"CREATE TABLE {DECIDED}.seeds {SEED_COLUMNS}")
    return [*statements, *vocabulary.statements()]


SEED_COLUMNS: Final = (
    "(run_id VARCHAR, log_offset BIGINT, sequence UBIGINT, seed_id VARCHAR, site VARCHAR, stage INTEGER, "
    "blueprint_id VARCHAR, alpha FLOAT, life UINTEGER, parameters UBIGINT, form VARCHAR, stage_age_epochs UINTEGER, "
    "since_sequence UBIGINT, since_step UBIGINT, since_epoch UINTEGER)"
)


def empty(table: str) -> str:
    """SQL that makes a table of the log without rows, which has its columns and their types."""
    columns = ", ".join(f'"{name}" {kind}' for name, kind in duckdb_columns(table).items())
    return f'CREATE TABLE IF NOT EXISTS empty."{table}" ({columns})'


@cache
def definition(name: str) -> str:
    """SQL that makes one of `RELATIONS`, or makes it anew."""
    text = read_sql(name)
    if name in TABLES_OF_VIEWS:
        made = f"CREATE OR REPLACE TABLE {name} AS\n{text}"
        return f"{made};\n{_SURVIVES.replace('MACRO', 'OR REPLACE MACRO')}" if name == "cuts" else made
    if name in AT_STEP:
        return f"CREATE OR REPLACE MACRO {name}(at_step) AS TABLE\n{text}"
    return f"CREATE OR REPLACE VIEW {name} AS\n{text}"


@cache
def needs(name: str) -> tuple[str, ...]:
    """What the SQL of one of `RELATIONS` reads: others of them, and tables of the log."""
    text = read_sql(name)
    words = {word.removeprefix("log.") for word in _SOURCE.findall(text)}
    if "survives(" in text:
        words.add("cuts")
    return tuple(each for each in _ALL if each in words and each != name)


def mentioned(query: str) -> list[str]:
    """The relations and the tables of the log whose names stand in a query, and perhaps some more."""
    words = set(_WORD.findall(query.lower()))
    return list(_ALL) if words & _ASKS_FOR_ALL else [name for name in _ALL if name in words]


_WORD: Final = re.compile(r"[a-z_]\w*")
_SOURCE: Final = re.compile(r"(?:FROM|JOIN)\s+((?:log\.)?[a-z_]+)")
_ASKS_FOR_ALL: Final = frozenset(
    {"show", "pragma", "information_schema", "duckdb_views", "duckdb_tables", "duckdb_columns", "duckdb_functions"}
)
_ALL: Final = (*RELATIONS, *UNIONS, *TABLES)
