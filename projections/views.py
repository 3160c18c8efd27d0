"""The SQL that makes what people ask of a history: the readable views, the fold, and the tables that it looks up in.

All of it is text, `sql/<name>.sql`; here is in which order it is made, and what is made anew when the log goes on.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from projections import vocabulary
from projections.columns import TABLES, duckdb_columns

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

_CLAIMS: Final = frozenset({"run_started", "run_resumed"})
CLAIMS_AND_ROLLBACKS: Final = _CLAIMS | {"rolled_back"}

_SMALL: Final = {"fold_claims": (), "fold_jumps": ("rolled_back",), "fold_seeds": ()}
"""Parts of the fold that are a few rows a run and that most views need: kept as tables, made anew when what they are
made of changes: the claims of runs, and the tables named here."""

_SAID: Final = "fold_said"
_OF_FORKS: Final = ("fold_shared", "fold_inherited")
"""As the small tables, and empty where no run is a fork. They read what the facts say of seeds, a view of the fold."""

FORKS: Final = """
    SELECT count(DISTINCT claim.run_id), count(jump.run_id)
    FROM fold_claims AS claim
    LEFT JOIN fold_jumps AS jump ON jump.run_id = claim.run_id AND jump.to_sequence <= claim.accepted
    WHERE claim.first AND claim.accepted > 0
"""
"""How many runs are forks, and how often one went back behind its own beginning."""

_FOLD: Final = ("fold_changes", "fold_problems", "fold_stages", "fold_stage_at_epoch", "fold_facts")
"""Views of the fold, in an order in which each finds those that it reads."""

_AT_STEP: Final = ("fold_state_at", "fold_seeds_at")
"""The fold as of a step: `from fold_state_at(120)`."""


def read_sql(name: str) -> str:
    """The text of `sql/<name>.sql`, without the semicolon at its end; `{versions}` in it is the library's own fold."""
    folder = resources.files("projections").joinpath("sql")
    text = folder.joinpath(f"{name}.sql").read_text("utf-8").rstrip().removesuffix(";")
    return text.replace("{versions}", folder.joinpath("library", "versions.sql").read_text("utf-8"))


def tables() -> list[str]:
    """SQL that makes what does not depend on any file: settings, schemas, empty tables and the words of the views."""
    statements = ["SET TimeZone = 'UTC'", "SET parquet_metadata_cache = true"]
    statements += ["CREATE SCHEMA empty", "CREATE SCHEMA log"]
    for table in TABLES:
        columns = ", ".join(f'"{name}" {kind}' for name, kind in duckdb_columns(table).items())
        statements.append(f'CREATE TABLE empty."{table}" ({columns})')
    return [*statements, *vocabulary.statements()]


def small(changed: set[str]) -> list[str]:
    """SQL that makes anew those of the small tables that come of the tables of the log that `changed`."""
    stale = [name for name, sources in _SMALL.items() if changed & {*sources, *_CLAIMS}]
    return [f"CREATE OR REPLACE TABLE {name} AS {read_sql(name)}" for name in stale]


def of_forks(*, empty: bool = False) -> list[str]:
    """SQL that makes the tables of forks, and the view that they read; `empty` is quicker, where no run is a fork."""
    limit = " LIMIT 0" if empty else ""
    said = f"CREATE OR REPLACE VIEW {_SAID} AS\n{read_sql(_SAID)}"
    return [said, *(f"CREATE OR REPLACE TABLE {name} AS FROM ({read_sql(name)}){limit}" for name in _OF_FORKS)]


def views() -> list[str]:
    """SQL that makes the views of the fold and those that people are promised."""
    made = [f"CREATE VIEW {name} AS\n{read_sql(name)}" for name in (*_FOLD, *VIEWS)]
    return made + [f"CREATE MACRO {name}(at_step) AS TABLE\n{read_sql(name)}" for name in _AT_STEP]
