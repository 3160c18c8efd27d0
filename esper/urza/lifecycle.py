"""A stored version's life as one table, and the diagram of a blueprint's whole life: its job's table, then this one.

The catalogue computes a version's state from what the log says (`projections/sql/library/versions.sql`); a test walks
through histories and holds its every change equal to a row here. `python -m esper.urza.lifecycle docs/blueprints.md`
writes the diagram into the page that shows it.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esper.tezzeret import lifecycle as job
from esper.urza.version import KEPT_DAYS, State

BLOCK: Final = re.compile(r"(```mermaid\n).*?(```)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Move:
    """One row of the table. A version begins where `source` is None."""

    source: State | None
    target: State
    when: str


STORED: Final = "a version is stored"
FOLLOWED: Final = "a newer one of its line is stored, and a run had attached it"
FOLLOWED_UNUSED: Final = "a newer one of its line is stored, and no run had attached it"
ATTACHED: Final = "a run attaches it after all"
WITHDRAWN: Final = "the blueprint's approval is withdrawn"
APPROVED: Final = "the blueprint is approved again"

MOVES: Final[tuple[Move, ...]] = (
    Move(None, "active", STORED),
    Move("active", "validated", FOLLOWED),
    Move("active", "deprecated", FOLLOWED_UNUSED),
    Move("deprecated", "validated", ATTACHED),
    Move("active", "rejected", WITHDRAWN),
    Move("validated", "rejected", WITHDRAWN),
    Move("deprecated", "rejected", WITHDRAWN),
    Move("rejected", "active", APPROVED),
    Move("rejected", "validated", APPROVED),
    Move("rejected", "deprecated", APPROVED),
)
"""A rejected version comes back as what it would be without the withdrawal."""


def diagram() -> str:
    """The life of a blueprint as a Mermaid state diagram, from its first request to a version's archiving."""
    return "\n".join(["stateDiagram-v2", *_jobs(), *_versions(), "    catalogued --> active"])


def _jobs() -> list[str]:
    lines = ['    state "a compile job (Tezzeret)" as job {']
    lines += [f"        {row.source or '[*]'} --> {row.target}: {row.trigger}<br>{row.meaning}" for row in job.MOVES]
    return [*lines, "    }"]


def _versions() -> list[str]:
    lines = ['    state "a stored version (Urza)" as version {']
    lines += [f"        {row.source} --> {row.target}: {row.when}" for row in MOVES if row.source is not None]
    lines += [
        f"        {state} --> archived: after {days} days" for state, days in KEPT_DAYS.items() if days is not None
    ]
    return [*lines, "    }"]


def main(page: Path) -> None:
    """Put the diagram into the page's first block of Mermaid."""
    text = page.read_text(encoding="utf-8")
    page.write_text(BLOCK.sub(lambda found: f"{found[1]}{diagram()}\n{found[2]}", text, count=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
