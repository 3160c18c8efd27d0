"""A seed's life as one table: which moves exist, what triggers each, and the gate that guards it.

Two rules. First, a move that the table does not have is refused and changes nothing: `move` raises IllegalTransition.
Second, gates are exit gates: the gate of a row is judged before a seed leaves the row's `source`, once per attempt.

The stages and gates themselves belong to Leyline; nothing here or elsewhere defines another. No torch in this module:
folds of the log use it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.errors import IllegalTransition

Stage: TypeAlias = leyline.SeedLifecycleStage
Gate: TypeAlias = leyline.SeedLifecycleGate
UNKNOWN: Final = leyline.SEED_LIFECYCLE_STAGE_UNKNOWN
DORMANT: Final = leyline.SEED_LIFECYCLE_STAGE_DORMANT
GERMINATED: Final = leyline.SEED_LIFECYCLE_STAGE_GERMINATED
TRAINING: Final = leyline.SEED_LIFECYCLE_STAGE_TRAINING
BLENDING: Final = leyline.SEED_LIFECYCLE_STAGE_BLENDING
SHADOWING: Final = leyline.SEED_LIFECYCLE_STAGE_SHADOWING
PROBATIONARY: Final = leyline.SEED_LIFECYCLE_STAGE_PROBATIONARY
FOSSILIZED: Final = leyline.SEED_LIFECYCLE_STAGE_FOSSILIZED
CULLED: Final = leyline.SEED_LIFECYCLE_STAGE_CULLED
EMBARGOED: Final = leyline.SEED_LIFECYCLE_STAGE_EMBARGOED
RESETTING: Final = leyline.SEED_LIFECYCLE_STAGE_RESETTING
TERMINATED: Final = leyline.SEED_LIFECYCLE_STAGE_TERMINATED
G0: Final = leyline.SEED_LIFECYCLE_GATE_G0_SANITY
G1: Final = leyline.SEED_LIFECYCLE_GATE_G1_GRADIENT_HEALTH
G2: Final = leyline.SEED_LIFECYCLE_GATE_G2_STABILITY
G3: Final = leyline.SEED_LIFECYCLE_GATE_G3_INTERFACE
G4: Final = leyline.SEED_LIFECYCLE_GATE_G4_SYSTEM_IMPACT
G5: Final = leyline.SEED_LIFECYCLE_GATE_G5_RESET

STAGES: Final[tuple[Stage, ...]] = (
    UNKNOWN,
    DORMANT,
    GERMINATED,
    TRAINING,
    BLENDING,
    SHADOWING,
    PROBATIONARY,
    FOSSILIZED,
    CULLED,
    EMBARGOED,
    RESETTING,
    TERMINATED,
)
ALIVE: Final[frozenset[Stage]] = frozenset({GERMINATED, TRAINING, BLENDING, SHADOWING, PROBATIONARY})
"""A seed that still has to prove itself."""
ATTACHED: Final[frozenset[Stage]] = ALIVE | {FOSSILIZED}
"""Stages that have a module; all others have none."""
MIXED: Final[frozenset[Stage]] = frozenset({BLENDING, SHADOWING, PROBATIONARY, FOSSILIZED})
"""Stages in which the seed's output is part of the network's forward pass."""


@dataclass(frozen=True, slots=True)
class Move:
    """One legal move: a row of the table."""

    source: Stage
    target: Stage
    trigger: str
    gate: Gate | None = None


MOVES: Final[tuple[Move, ...]] = (
    Move(UNKNOWN, DORMANT, "the slot is created"),
    Move(DORMANT, GERMINATED, "a germinate command names a blueprint"),
    Move(DORMANT, TERMINATED, "teardown"),
    Move(GERMINATED, TRAINING, "the kernel is ready and one step has passed", G0),
    Move(GERMINATED, CULLED, "cull command or gate failure"),
    Move(TRAINING, BLENDING, "the training epochs are over", G1),
    Move(TRAINING, CULLED, "cull command, gate failure or isolation breaker"),
    Move(BLENDING, SHADOWING, "the alpha ramp is finished", G2),
    Move(BLENDING, CULLED, "cull command, gate failure or isolation breaker"),
    Move(SHADOWING, PROBATIONARY, "the shadow epochs are over", G3),
    Move(SHADOWING, CULLED, "cull command or gate failure"),
    Move(PROBATIONARY, FOSSILIZED, "a fossilize command accepts it", G4),
    Move(PROBATIONARY, CULLED, "cull command, gate failure or patience spent"),
    Move(CULLED, EMBARGOED, "at once"),
    Move(EMBARGOED, RESETTING, "the embargo epochs are over"),
    Move(RESETTING, DORMANT, "the scrub is finished", G5),
    Move(FOSSILIZED, TERMINATED, "teardown"),
)

_BY_PAIR: Final[dict[tuple[int, int], Move]] = {(row.source, row.target): row for row in MOVES}


def name(stage: Stage) -> str:
    """The stage's short name, such as `BLENDING`; raises ValueError for a number that is no stage."""
    return leyline.SeedLifecycleStage.Name(stage).removeprefix("SEED_LIFECYCLE_STAGE_")


def gate_name(gate: Gate) -> str:
    """The gate's short name, such as `G2_STABILITY`; raises ValueError for a number that is no gate."""
    return leyline.SeedLifecycleGate.Name(gate).removeprefix("SEED_LIFECYCLE_GATE_")


def is_legal(source: Stage, target: Stage) -> bool:
    """Whether the table has this move."""
    return (source, target) in _BY_PAIR


def move(source: Stage, target: Stage) -> Move:
    """The row for this move; raises IllegalTransition where the table has none."""
    row = _BY_PAIR.get((source, target))
    if row is None:
        ways = ", ".join(name(other) for other in targets(source)) or "nowhere"
        raise IllegalTransition(f"a seed cannot go from {name(source)} to {name(target)}; from there it goes to {ways}")
    return row


def targets(source: Stage) -> tuple[Stage, ...]:
    """Where a seed can go from `source`, in the table's order."""
    return tuple(row.target for row in MOVES if row.source == source)


def exit_gate(stage: Stage) -> Gate | None:
    """The gate that leaves `stage`, or None where it has none."""
    return next((row.gate for row in MOVES if row.source == stage and row.gate is not None), None)


def diagram() -> str:
    """The table as a Mermaid state diagram; the README holds this text and a test keeps it true."""
    lines = ["stateDiagram-v2"]
    for row in MOVES:
        label = row.trigger if row.gate is None else f"{gate_name(row.gate)}: {row.trigger}"
        lines.append(f"    {name(row.source)} --> {name(row.target)}: {label}")
    return "\n".join(lines)
