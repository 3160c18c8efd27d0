"""The SQL that makes what people ask of a history: the readable views, the fold, and the words that they use.

All of it is text, `sql/<name>.sql`. A view is made when a query first names it, and what it reads before it.
"""

from __future__ import annotations

import re
import secrets
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from contracts.leyline.v1 import leyline_pb2
from contracts.topics import RUNS
from esper.kasmina.lifecycle import ATTACHED
from esper.leyline.envelope import LATEST_NS
from esper.record.accept import Verdict
from esper.spread import T_975
from projections.columns import BODIES, TABLES, duckdb_columns, quoted
from projections.verdicts import VERDICT_COLUMNS

VIEWS: Final = (
    "runs",
    "epochs",
    "metrics",
    "gains",
    "decisions",
    "commands",
    "transitions",
    "gates",
    "seeds",
    "growth",
    "reports",
    "checkpoints",
    "telemetry",
    "hooks",
    "events",
    "blueprint_outcomes",
    "approvals",
    "artifacts",
    "alerts",
    "slos",
    "policies",
)


"""The readable views that people are promised."""


UNIONS: Final = {"every": frozenset(BODIES), "facts": frozenset(RUNS.bodies)}


"""Views of `log` over many tables at once: every event, and the facts of runs."""


TABLES_OF_VIEWS: Final = ("cuts", "void_facts", "seed_slots")


"""A few rows a run that most views need: kept as tables, made anew when the log goes on."""


FOLD: Final = ("accepted_facts", "stops", "seed_figures")


"""What facts count, which runs are stopped, and what the fold of seeds is made of."""


AT_STEP: Final = ("fold_state_at", "fold_seeds_at")


"""The fold as of a step: `from fold_state_at(120)`."""


RELATIONS: Final = (*TABLES_OF_VIEWS, *FOLD, *AT_STEP, *VIEWS)


_MACROS: Final = {
    "cuts": """
CREATE OR REPLACE MACRO survives(of_run, at_offset, at_sequence) AS NOT EXISTS (
    FROM cuts AS cut
    WHERE cut.run_id = of_run AND cut.log_offset > at_offset AND cut.to_sequence < at_sequence
)
""",
    "void_facts": """
CREATE OR REPLACE MACRO stands(of_run, cause, chain) AS NOT EXISTS (
    FROM void_facts AS void WHERE void.run_id = of_run AND void.event_id = cause
) AND NOT EXISTS (
    FROM void_facts AS void WHERE void.run_id = of_run AND void.event_id = chain
)
""",
}
"""Made with the table that they look into. `survives`: whether no cut came after a fact and went behind it. `stands`:
whether what is no fact survives, as what it answers does: its cause, and the fact that began its chain of causes. The
arguments name their table: `run_id` alone would be the other table's."""
_TABLE_OF: Final = {"survives": "cuts", "stands": "void_facts"}
"""A macro's name in SQL makes that SQL depend on the table."""


DECIDED: Final = "decided"


"""The schema of what Python decided on opening: verdicts that the files lack, and seeds as a fork found them behind its
beginning."""


def read_sql(name: str) -> str:
    """The text of `sql/<name>.sql`, without the semicolon at its end; `{versions}` in it is the library's own fold."""
    folder = resources.files("projections").joinpath("sql")
    text = folder.joinpath(f"{name}.sql").read_text("utf-8").rstrip().removesuffix(";")
    return text.replace("{versions}", folder.joinpath("library", "versions.sql").read_text("utf-8"))


def runs_of() -> str:
    """The query of the view `runs` for the runs of the ids `$ids` alone: of them nothing else is read or folded."""
    return read_sql("runs").replace("-- of some:", "")


def spill() -> str:
    """SQL for a folder of the system's temporary files, which DuckDB makes where a query needs it, and removes.

    Its own choice is `.tmp` in the current folder. The name is drawn, so that nobody else can have made it.
    """
    return quoted(Path(tempfile.gettempdir()) / f"esper-spill-{secrets.token_hex(8)}")


def settings() -> list[str]:
    """SQL that makes what does not depend on any file: settings, schemas, empty tables and the words of the views."""
    statements = ["SET TimeZone = 'UTC'", "SET parquet_metadata_cache = true", f"SET temp_directory = {spill()}"]
    statements += ["CREATE SCHEMA empty", "CREATE SCHEMA log", f"CREATE SCHEMA {DECIDED}"]
    statements.append(f"CREATE TABLE {DECIDED}.verdicts {VERDICT_COLUMNS}")
    statements.append(f"CREATE TABLE {DECIDED}.seeds {SEED_COLUMNS}")
    return [*statements, *words()]


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
        return f"{made};\n{_MACROS[name]}" if name in _MACROS else made
    if name in AT_STEP:
        return f"CREATE OR REPLACE MACRO {name}(at_step) AS TABLE\n{text}"
    return f"CREATE OR REPLACE VIEW {name} AS\n{text}"


@cache
def without_rows(name: str) -> str:
    """SQL that says once and for all what the macro of one of `TABLES_OF_VIEWS` answers while that table is empty.

    Most histories have no rollback, no resume and nothing void: then no query pays for looking. Empty for a table
    without a macro.
    """
    return "".join(
        f"CREATE OR REPLACE MACRO {macro}(of_run, at_or_cause, sequence_or_chain) AS true"
        for macro, table in _TABLE_OF.items()
        if table == name
    )


@cache
def needs(name: str) -> tuple[str, ...]:
    """What the SQL of one of `RELATIONS` reads: others of them, and tables of the log."""
    text = read_sql(name)
    words = {word.removeprefix("log.") for word in _SOURCE.findall(text)}
    words |= {table for macro, table in _TABLE_OF.items() if f"{macro}(" in text}
    return tuple(each for each in _ALL if each in words and each != name)


def mentioned(query: str) -> list[str]:
    """The relations and the tables of the log whose names stand in a query, and perhaps some more."""
    words = set(_WORD.findall(query.lower()))
    words |= {table for macro, table in _TABLE_OF.items() if macro in words}
    return list(_ALL) if words & _ASKS_FOR_ALL else [name for name in _ALL if name in words]


_WORD: Final = re.compile(r"[a-z_]\w*")


_SOURCE: Final = re.compile(r"(?:FROM|JOIN)\s+((?:log\.)?[a-z_]+)")


_ASKS_FOR_ALL: Final = frozenset(
    {"show", "pragma", "information_schema", "duckdb_views", "duckdb_tables", "duckdb_columns", "duckdb_functions"}
)


_ALL: Final = (*RELATIONS, *UNIONS, *TABLES)


_ENUMS: Final[dict[str, tuple[Any, str]]] = {
    "stage_name": (leyline_pb2.SeedLifecycleStage, "SEED_LIFECYCLE_STAGE_"),
    "gate_name": (leyline_pb2.SeedLifecycleGate, "SEED_LIFECYCLE_GATE_"),
    "operation_name": (leyline_pb2.SeedOperation, "SEED_OPERATION_"),
    "command_type_name": (leyline_pb2.CommandType, "COMMAND_TYPE_"),
    "outcome_name": (leyline_pb2.FieldReportOutcome, "FIELD_REPORT_OUTCOME_"),
    "blend_mode_name": (leyline_pb2.BlendMode, "BLEND_MODE_"),
    "priority_name": (leyline_pb2.MessagePriority, "MESSAGE_PRIORITY_"),
    "level_name": (leyline_pb2.TelemetryLevel, "TELEMETRY_LEVEL_"),
    "breaker_state_name": (leyline_pb2.CircuitBreakerState, "CIRCUIT_BREAKER_STATE_"),
    "health_name": (leyline_pb2.HealthStatus, "HEALTH_STATUS_"),
}


def words() -> list[str]:
    """SQL that defines one macro per enum (a number without a name stays a number) and a table of the lifecycle.

    `attached_stages` are those in which a seed has a module; `problem_name` is why a verdict stops a run.

    `uuid_text` gives the 8-4-4-4-12 form of 16 bytes, `hex_text` the hex digits of any bytes, both null for none;
    `number_of` a float, null for what is no number; `moment` the time of Unix nanoseconds; `student_t` how many
    standard errors the 95 % interval of a mean of n values reaches to either side, null below two.
    """
    stages = " ".join(
        f"WHEN '{text.removeprefix('SEED_LIFECYCLE_STAGE_')}' THEN {number}"
        for text, number in leyline_pb2.SeedLifecycleStage.items()
    )
    problems = " ".join(f"WHEN {int(each)} THEN '{each.name.lower()}'" for each in Verdict if each.stops)
    attached = ", ".join(f"({stage})" for stage in sorted(ATTACHED))
    return [
        "CREATE MACRO hex_text(b) AS lower(nullif(hex(b), ''))",
        "CREATE MACRO uuid_text(b) AS CASE WHEN octet_length(b) = 16 THEN hex(b)::UUID::VARCHAR ELSE hex_text(b) END",
        "CREATE MACRO number_of(x) AS CASE WHEN NOT isnan(x) THEN x END",
        f"CREATE MACRO moment(ns) AS make_timestamp_ns(CASE WHEN ns BETWEEN 0 AND {LATEST_NS} THEN ns::BIGINT END)",
        f"CREATE MACRO student_t(n) AS CASE WHEN n > 1 THEN {list(T_975)}[least(n - 1, {len(T_975)})] END",
        *(_macro(name, enum, prefix) for name, (enum, prefix) in _ENUMS.items()),
        f"CREATE MACRO stage_number(name) AS CASE name {stages} END",
        f"CREATE MACRO problem_name(verdict) AS CASE verdict {problems} END",
        f"CREATE TABLE attached_stages AS SELECT * FROM (VALUES {attached}) AS listed (stage)",  # noqa: S608  as above
    ]


def _macro(name: str, enum: Any, prefix: str) -> str:
    cases = " ".join(f"WHEN {number} THEN '{text.removeprefix(prefix)}'" for text, number in enum.items())
    return f"CREATE MACRO {name}(number) AS CASE number {cases} ELSE number::VARCHAR END"
