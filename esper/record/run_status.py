"""How a run stands, and the way there: what no rollback takes back, the path of its facts, and why its fold stopped.

A run's history is a tree: every fact follows the one before it, except that a rollback follows the fact whose state it
restores and a resume the last fact that it accepts. The **path** is the way from the newest fact back to the first; it
is the surviving timeline. Facts that are not on it happened, and count no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from esper.kasmina.lifecycle import Stage
from esper.record.model_state import ModelState, SeedState


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the fold of a run stopped, and at which fact: a kind of `accept.Verdict` in small letters."""

    kind: str
    sequence: int
    detail: str

    def __str__(self) -> str:
        return f"{self.kind} at sequence {self.sequence}: {self.detail}"


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """The ids of a run's accepted facts: the one at place n - 1 has sequence n.

    A list that grows at its end, can be cut back, and never changes under a holder of an earlier version. Versions
    share their storage: appending to the newest is O(1) and copies nothing, to an older one copies what that one sees.
    """

    _ids: list[bytes] = field(default_factory=list, repr=False)
    length: int = 0
    _unknown: int = 0

    @classmethod
    def after(cls, length: int) -> Ledger:
        """A ledger whose first `length` facts are another run's, and not known here.

        They take no room: how many there are is what an event says.
        """
        return cls([], length, length)

    def appended(self, event_id: bytes) -> Ledger:
        """This ledger and one more id."""
        unknown = min(self._unknown, self.length)
        known = self.length - unknown
        ids = self._ids if unknown == self._unknown and len(self._ids) == known else self._ids[:known]
        ids.append(event_id)
        return Ledger(ids, self.length + 1, unknown)

    def cut(self, length: int) -> Ledger:
        """The first `length` ids."""
        return Ledger(self._ids, min(length, self.length), self._unknown)

    def id_of(self, sequence: int) -> bytes | None:
        """The id of the fact with this sequence, empty where it is not known, or None where there is none."""
        if not 0 < sequence <= self.length:
            return None
        return self._ids[sequence - 1 - self._unknown] if sequence > self._unknown else b""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """What no rollback takes back: how the run is doing, what is stored of it, and what was last done to it."""

    status: str = "unstarted"
    reason: str = ""
    timeline: int = 0
    breakers: Mapping[str, int] = field(default_factory=dict)
    conservative: bool = False
    paused: bool = False
    """Whether a person has told its trainer to stand still."""
    checkpoints: Mapping[str, int] = field(default_factory=dict)  # reference -> step, those that are kept
    last_decision_id: bytes = b""
    last_command_id: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """A fact on the path, and the state of the model and of the run after it."""

    sequence: int
    body: str
    model: ModelState
    run_status: RunStatus
    previous: Mark | None = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class RunState:
    """A run as its facts tell it: `model` and what lies behind `path` are the surviving timeline's. For `accept.judge`.

    `status` is running until the trainer finished the run. Where `problem` is set, the fold stopped there: everything
    is as of the fact before, and later facts are not looked at. `shared` facts at the beginning are a parent's and not
    known; `declared` are the ids of the seed slots.
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
    shared: int = 0
    declared: frozenset[str] = frozenset()

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
            self.shared,
            self.declared,
        )

    @property
    def sequence(self) -> int:
        """The sequence of the newest fact that counts."""
        return self.path.sequence if self.path is not None else 0

    @property
    def model(self) -> ModelState:
        """The network as it is now."""
        return self.path.model if self.path is not None else _NOTHING

    @property
    def run_status(self) -> RunStatus:
        """What no rollback takes back, as it is now."""
        return self.path.run_status if self.path is not None else _UNSTARTED

    @property
    def begun(self) -> bool:
        """Whether any fact counts."""
        return self.path is not None

    @property
    def stopped(self) -> bool:
        """Whether the fold stopped."""
        return self.problem is not None

    def id_of(self, sequence: int) -> bytes | None:
        """The id of the fact with this sequence, or None where there is none."""
        return self.ledger.id_of(sequence)

    def on_path(self, sequence: int) -> bool:
        """Whether the fact with this sequence is on the surviving timeline."""
        return mark_of(self, sequence) is not None

    def stage_of(self, seed_id: str) -> tuple[Stage, bool] | None:
        """A declared seed's stage, and whether it ever moved."""
        seed = self.seeds.get(seed_id) if seed_id in self.declared else None
        return (seed.stage, seed.moved) if seed is not None else None

    @property
    def status(self) -> str:
        """How the run is: unstarted, running, what its trainer said at its end, or stopped by a `problem`."""
        return "stopped" if self.problem is not None else self.run_status.status

    @property
    def timeline(self) -> int:
        """One more than the rollbacks so far."""
        return self.run_status.timeline

    @property
    def seeds(self) -> Mapping[str, SeedState]:
        """The seeds as they are now, by id."""
        return self.model.seeds


_NOTHING: Final = ModelState()
_UNSTARTED: Final = RunStatus()


def marks(state: RunState) -> Iterator[Mark]:
    """The path from the newest fact back to the first."""
    return path_from(state.path)


def path_from(mark: Mark | None) -> Iterator[Mark]:
    """`mark` and what lies behind it, back to the first fact."""
    while mark is not None:
        yield mark
        mark = mark.previous


def mark_of(state: RunState, sequence: int) -> Mark | None:
    """The fact with this sequence, where it is on the path."""
    mark = next((mark for mark in marks(state) if mark.sequence <= sequence), None)
    return mark if mark is not None and mark.sequence == sequence else None


def mark_at_step(state: RunState, step: int) -> Mark | None:
    """The last fact before more than `step` optimiser steps were taken, on the surviving timeline."""
    return next((mark for mark in marks(state) if mark.model.step <= step), None)


def mark_at_epoch(state: RunState, epoch: int) -> Mark | None:
    """The last fact before more than `epoch` epochs were completed, on the surviving timeline."""
    return next((mark for mark in marks(state) if mark.model.epoch <= epoch), None)


def packets(state: RunState, mark: Mark) -> Iterator[bytes]:
    """The ids of the state packets on the path up to `mark`, the newest first."""
    return (
        event_id
        for each in path_from(mark)
        if each.body == "epoch_completed" and (event_id := state.ledger.id_of(each.sequence)) is not None
    )


def sequence_at_step(state: RunState, step: int) -> int:
    """The last sequence of the surviving timeline when `step` optimiser steps were taken; 0 before the run began."""
    return next((mark.sequence for mark in marks(state) if mark.model.step <= step), 0)


def stages_by_epoch(state: RunState) -> dict[int, dict[str, Stage]]:
    """Every seed's stage at the end of every completed epoch of the surviving timeline, by the fact's sequence."""
    return {
        mark.sequence: {seed_id: seed.stage for seed_id, seed in mark.model.seeds.items()}
        for mark in marks(state)
        if mark.body == "epoch_completed"
    }
