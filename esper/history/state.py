"""What the fold of a run's facts knows: the run, its seeds, and the way it took to get there.

A run's history is a tree: every fact follows the one before it, except that a rollback follows the fact whose state it
restores and a resume the last fact that it accepts. The **path** is the way from the newest fact back to the first; it
is the surviving timeline. Facts that are not on it happened, and count no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from esper.history.ledger import Ledger
from esper.kasmina.lifecycle import DORMANT, Stage

ProblemKind: TypeAlias = Literal[
    "not_started", "gap", "conflict", "unclaimed", "bad_claim", "bad_rollback", "illegal_transition", "unknown_fact"
]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the fold of a run stopped, and at which fact.

    ==================  ============================================================================================
    not_started         a fact of a run whose start is not on the log
    gap                 a sequence was left out: a fact is missing
    conflict            two different facts have one sequence
    unclaimed           a fact of an incarnation that never claimed the run
    bad_claim           a resume that accepts a fact which is not on the path, or does not follow the one it accepts
    bad_rollback        a rollback to a fact that is not on the path
    illegal_transition  a seed's move that its stage does not allow, or of a seed that the run did not declare
    unknown_fact        a fact that this fold does not know
    ==================  ============================================================================================
    """

    kind: ProblemKind
    sequence: int
    detail: str

    def __str__(self) -> str:
        return f"{self.kind} at sequence {self.sequence}: {self.detail}"


@dataclass(frozen=True, slots=True)
class SeedState:
    """A seed slot; `alpha`, `parameters` and `stage_age_epochs` are as last reported, `since_*` says when it moved."""

    seed_id: str
    site: str = ""
    stage: Stage = DORMANT
    blueprint_id: str = ""
    alpha: float = 0.0
    life: int = 0
    parameters: int = 0
    form: str = ""
    stage_age_epochs: int = 0
    since_sequence: int = 0
    since_step: int = 0
    since_epoch: int = 0
    moved: bool = False  # whether any transition was seen yet

    def reported(self, alpha: float, parameters: int, stage_age_epochs: int) -> SeedState:
        """The slot with what the end of an epoch says of it; `dataclasses.replace` takes four times as long."""
        return SeedState(
            self.seed_id,
            self.site,
            self.stage,
            self.blueprint_id,
            alpha,
            self.life,
            parameters,
            self.form,
            stage_age_epochs,
            self.since_sequence,
            self.since_step,
            self.since_epoch,
            self.moved,
        )


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint: the state after the fact `sequence`, at `step`."""

    ref: str
    step: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Rate:
    """A group's learning rate as it was last changed, at `step`; `born` is when its parameters were new, if ever.

    Between changes a rate follows its schedule, which no fact repeats.
    """

    lr: float
    step: int
    born: int | None = None


@dataclass(frozen=True, slots=True)
class World:
    """What a rollback restores: the network, its optimiser and how far training is."""

    step: int = 0
    epoch: int = 0
    seeds: Mapping[str, SeedState] = field(default_factory=dict)
    learning_rates: Mapping[str, Rate] = field(default_factory=dict)
    params: int = 0
    probe_loss: float | None = None
    probe_accuracy: float | None = None
    windows: Mapping[bytes, str] = field(default_factory=dict)  # open observation windows: command id -> seed id
    checkpoint: Saved | None = None  # the last one of this timeline, kept or not

    def at(self, step: int, epoch: int) -> World:
        """The same at another place of the run's clock; written out as `SeedState.reported` is."""
        return World(
            step,
            epoch,
            self.seeds,
            self.learning_rates,
            self.params,
            self.probe_loss,
            self.probe_accuracy,
            self.windows,
            self.checkpoint,
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """What no rollback takes back: how the run is doing, what is stored of it, and what was last done to it."""

    status: str = "unstarted"
    reason: str = ""
    timeline: int = 0
    breakers: Mapping[str, int] = field(default_factory=dict)
    conservative: bool = False
    checkpoints: Mapping[str, int] = field(default_factory=dict)  # reference -> step, those that are kept
    last_decision_id: bytes = b""
    last_command_id: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """A fact on the path, and the world and the standing after it."""

    sequence: int
    body: str
    world: World
    standing: Standing
    previous: Mark | None = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class RunState:
    """A run as its facts tell it. `world` and what lies behind `path` is the surviving timeline.

    `status` is running until the trainer finished the run. Where `problem` is set, the fold stopped there: everything
    is as of the fact before, and later facts are not looked at.
    """

    run_id: str = ""
    task: str = ""
    policy: str = ""
    incarnation: int = 0
    path: Mark | None = field(default=None, repr=False)
    ledger: Ledger = field(default_factory=Ledger, repr=False)
    problem: Problem | None = None
    duplicates: int = 0
    void: int = 0

    def followed(self, path: Mark, ledger: Ledger) -> RunState:
        """The run with one more fact; every fact comes here, and `dataclasses.replace` takes four times as long."""
        return RunState(
            self.run_id,
            self.task,
            self.policy,
            self.incarnation,
            path,
            ledger,
            self.problem,
            self.duplicates,
            self.void,
        )

    @property
    def sequence(self) -> int:
        """The sequence of the newest fact that counts."""
        return self.path.sequence if self.path is not None else 0

    @property
    def world(self) -> World:
        """The network as it is now."""
        return self.path.world if self.path is not None else _NOTHING

    @property
    def standing(self) -> Standing:
        """What no rollback takes back, as it is now."""
        return self.path.standing if self.path is not None else _UNSTARTED

    @property
    def status(self) -> str:
        """How the run is: unstarted, running, what its trainer said at its end, or stopped by a `problem`."""
        return "stopped" if self.problem is not None else self.standing.status

    @property
    def timeline(self) -> int:
        """One more than the rollbacks so far."""
        return self.standing.timeline

    @property
    def seeds(self) -> Mapping[str, SeedState]:
        """The seeds as they are now, by id."""
        return self.world.seeds


_NOTHING: Final = World()
_UNSTARTED: Final = Standing()


def marks(state: RunState) -> Iterator[Mark]:
    """The path from the newest fact back to the first."""
    return path_from(state.path)


def path_from(mark: Mark | None) -> Iterator[Mark]:
    """`mark` and what lies behind it, back to the first fact."""
    while mark is not None:
        yield mark
        mark = mark.previous


def mark_at_step(state: RunState, step: int) -> Mark | None:
    """The last fact before more than `step` optimiser steps were taken, on the surviving timeline."""
    return next((mark for mark in marks(state) if mark.world.step <= step), None)


def mark_at_epoch(state: RunState, epoch: int) -> Mark | None:
    """The last fact before more than `epoch` epochs were completed, on the surviving timeline."""
    return next((mark for mark in marks(state) if mark.world.epoch <= epoch), None)


def packets(state: RunState, mark: Mark) -> Iterator[bytes]:
    """The ids of the state packets on the path up to `mark`, the newest first."""
    return (
        event_id
        for each in path_from(mark)
        if each.body == "epoch_completed" and (event_id := state.ledger.id_of(each.sequence)) is not None
    )


def sequence_at_step(state: RunState, step: int) -> int:
    """The last sequence of the surviving timeline when `step` optimiser steps were taken; 0 before the run began."""
    return next((mark.sequence for mark in marks(state) if mark.world.step <= step), 0)


def stages_by_epoch(state: RunState) -> dict[int, dict[str, Stage]]:
    """Every seed's stage at the end of every completed epoch of the surviving timeline, by the fact's sequence."""
    return {
        mark.sequence: {seed_id: seed.stage for seed_id, seed in mark.world.seeds.items()}
        for mark in marks(state)
        if mark.body == "epoch_completed"
    }
