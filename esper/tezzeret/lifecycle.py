"""A compile job's life as one table: which event moves it from which stage to which, and what must hold besides.

Two rules. An event that the table does not have for a job's stage changes nothing, because the log delivers at least
once and late. And an event of another attempt than the one that goes on changes nothing either; `esper.tezzeret.jobs`
says which attempt that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from esper.leyline.envelope import Event, body_name

JobStage = Literal["requested", "started", "failed", "exhausted", "finished", "stored", "catalogued", "parked"]
Need = Literal["compile", "publish", "park", "nothing"]

Trigger = Literal[
    "compile_requested",
    "compile_started",
    "compile_finished",
    "compile_failed, will retry",
    "compile_failed, for good",
    "compile_parked",
    "artifact_stored",
    "kernel_catalog_update",
]
"""An event by its body's name; a failure says whether another attempt follows."""


@dataclass(frozen=True, slots=True)
class Move:
    """One row of the table. A job begins where `source` is None; `meaning` is for people."""

    source: JobStage | None
    trigger: Trigger
    target: JobStage
    meaning: str


MOVES: Final[tuple[Move, ...]] = (
    Move(None, "compile_requested", "requested", "somebody asks for a kernel"),
    Move("requested", "compile_started", "started", "a child begins"),
    Move("started", "compile_finished", "finished", "the artifact is in the object store"),
    Move("started", "compile_failed, will retry", "failed", "timeout, memory or error"),
    Move("started", "compile_failed, for good", "exhausted", "refused, or the last attempt"),
    Move("failed", "compile_started", "started", "the next attempt, emergency if it is the last"),
    Move("exhausted", "compile_parked", "parked", "given up"),
    Move("finished", "compile_failed, will retry", "failed", "the disk lost it before it was told of"),
    Move("finished", "artifact_stored", "stored", "a version of the library"),
    Move("stored", "kernel_catalog_update", "catalogued", "everybody is told"),
    Move("parked", "compile_requested", "requested", "asked for again, with all attempts anew"),
)

NEEDS: Final[dict[JobStage, Need]] = {
    "requested": "compile",
    "started": "compile",
    "failed": "compile",
    "exhausted": "park",
    "finished": "publish",
    "stored": "publish",
    "catalogued": "nothing",
    "parked": "nothing",
}
"""What is left to do in each stage, for whoever finds a job there."""

STAGES: Final[tuple[JobStage, ...]] = tuple(NEEDS)

_TARGETS: Final[dict[tuple[JobStage | None, Trigger], JobStage]] = {
    (row.source, row.trigger): row.target for row in MOVES
}
_TRIGGERS: Final[dict[str, Trigger]] = {row.trigger: row.trigger for row in MOVES}


def trigger_of(event: Event) -> Trigger | None:
    """What an event is to a job; None where it is nothing."""
    name = body_name(event)
    if name == "compile_failed":
        return "compile_failed, will retry" if event.compile_failed.will_retry else "compile_failed, for good"
    return _TRIGGERS.get(name)


def target(source: JobStage | None, trigger: Trigger) -> JobStage | None:
    """Where the table leads from `source`; None where it has no such row, so that nothing changes."""
    return _TARGETS.get((source, trigger))
