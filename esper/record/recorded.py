"""A run as it is recorded: the facts that count, in their order, and the decisions and commands that they answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from contracts.leyline.v1.event_pb2 import RunStarted, Script
from esper.errors import InvalidInput
from esper.leyline.envelope import Event, body_name
from esper.leyline.signing import Signed
from esper.record.fold import evolve
from esper.record.run_status import RunState, marks

FILE: Final = "file:"
"""Before the SHA-256 of a person's own file, in what is on record of a task."""
NO_ROOM: Final = ("No space left on device", "(os error 28)", "can't allocate memory", "Cannot allocate memory")
_NO_ROOM: Final = (*NO_ROOM, "MemoryError", "OutOfMemoryError")


@dataclass(frozen=True, slots=True)
class AcceptedFacts:
    """`facts` have the sequences 1, 2, 3, ..., and `state` is the fold of them all.

    Stretches that were rolled back are among them, because they happened; void facts and repetitions are not.
    """

    facts: list[Event]
    state: RunState


def accepted_facts(events: Iterable[Event]) -> AcceptedFacts:
    """What counts of `events`, which are a run's with those of its ancestors before them, in the order of the log.

    Ends where the fold stops; `state.problem` says why.
    """
    state, facts = RunState(), list[Event]()
    for event in events:
        before, state = state, evolve(state, event)
        if state.path is not before.path and state.path is not None:
            del facts[event.sequence - 1 :]
            facts.append(event)
    return AcceptedFacts(facts, state)


def lacked(reason: str) -> bool:
    """Whether a run ended because its machine had no room left, on the disk or in memory, by its error in one line.

    That was recorded as a failure once; now it is an interruption.
    """
    return any(word in reason for word in _NO_ROOM)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is known of a run, its ancestors' part included: `facts` have the sequences 1, 2, 3, ...

    `decisions` are by the packet that they answer, `commands` by their id, both as they were signed. `earlier` are the
    runs that its script grew before it, None for one that never began.
    """

    run_id: str
    facts: Sequence[Event]
    state: RunState
    decisions: dict[bytes, Signed] = field(default_factory=dict)
    commands: dict[bytes, Signed] = field(default_factory=dict)
    earlier: Sequence[Recorded | None] = ()
    lacks: str = ""
    """Why the script cannot be run again: which of the earlier runs this history does not have."""

    @classmethod
    def whole(cls, run_id: str, read: Callable[[str], Recorded]) -> Recorded:
        """The run with the earlier ones of its script, as `read` gives each; raises what it raises for the run."""
        recorded = read(run_id)
        before = recorded.root.script.before
        try:
            return replace(recorded, earlier=tuple(read(each) if each else None for each in before))
        except InvalidInput as error:
            return replace(
                recorded, lacks=f"the script grew {len(before)} other runs before, which it trains first: {error}"
            )

    @classmethod
    def of(cls, run_id: str, facts: Iterable[Event], requests: Iterable[tuple[Event, Signed]]) -> Recorded:
        """The run in `facts`, which come in the order of the log, ancestors' first.

        Raises InvalidInput where they are no run, where an ancestor's part is missing, or where the fold stops: nobody
        can go on from what cannot be true.
        """
        accepted = accepted_facts(facts)
        if accepted.state.problem is not None:
            raise InvalidInput(f"the history of run {run_id} does not hold together: {accepted.state.problem}")
        if not accepted.facts:
            raise InvalidInput(f"run {run_id} has no facts in this archive")
        if accepted.facts[0].sequence > 1:
            parent_id = accepted.facts[0].run_started.parent_run_id
            raise InvalidInput(
                f"run {run_id} was forked from {parent_id}, whose part of the history this archive does not have: "
                "ask an archive, or an export, that has both"
            )
        recorded = cls(run_id, accepted.facts, accepted.state)
        for event, signed in requests:
            if body_name(event) == "decision_made":
                recorded.decisions.setdefault(event.decision_made.packet_id, signed)
            else:
                recorded.commands.setdefault(event.event_id, signed)
        return recorded

    @property
    def root(self) -> RunStarted:
        """The first fact of all, the oldest ancestor's."""
        return self.facts[0].run_started

    @property
    def script(self) -> Script:
        """The script that trains it, as the last process that went on with it recorded it.

        Of a task in a person's own file it has that file, where it is not the one that the run began with.
        """
        scripts = (fact.run_resumed.script for fact in reversed(self.facts) if fact.run_resumed.HasField("script"))
        return next(scripts, self.root.script)

    @property
    def task_source(self) -> str:
        """What is on record of the task's code, as the last process that went on with it recorded it."""
        source = self.root.task_source
        if source.startswith(FILE) and self.script.sources:
            (reference,) = self.script.sources.values()
            return FILE + reference.removeprefix("sha256:")
        return source

    def last_accepted(self) -> int:
        """The last sequence from which the run can be gone on with; raises InvalidInput for one that is over.

        A person mends what a run failed over, and goes on with it from before that: of one that was rolled back in vain
        from the state that its rollbacks went back to, because a run that follows its record over them halts again.
        """
        last = self.facts[-1]
        if not last.HasField("run_finished"):
            return last.sequence
        end = last.run_finished
        if end.status == "interrupted":
            return last.sequence - 1
        if end.status == "failed":
            return min([last.sequence - 1, *(fact.rolled_back.to_sequence for fact in self._in_vain())])
        raise InvalidInput(
            f"run {self.run_id} is over ({last.run_finished.status}): there is nothing to resume; to try it otherwise, "
            f"leave it at a step: `esper fork {self.run_id} --at STEP --do nothing`"
        )

    def _in_vain(self) -> Iterator[Event]:
        """The rollbacks since the last completed epoch that were for trouble, or that came too late for the run."""
        for fact in itertools.takewhile(lambda each: not each.HasField("epoch_completed"), reversed(self.facts)):
            back = fact.rolled_back
            for_trouble = back.reason != "command" and not back.seed_id
            if fact.HasField("rolled_back") and (for_trouble or back.deadline_exceeded):
                yield fact

    def begun(self, sequence: int) -> Event:
        """The first fact of the run that this was after the fact `sequence`: an ancestor's, before a fork."""
        return next(fact for fact in reversed(self.facts[: max(1, sequence)]) if fact.HasField("run_started"))

    def checkpoints(self) -> list[Event]:
        """The CheckpointSaved of every checkpoint that is kept and lies on the surviving timeline, the oldest first."""
        # Of what a rollback left, not of its own fact: that one comes after the state which the rollback restored.
        path = {mark.sequence for mark in marks(self.state)}
        return [
            fact
            for fact in self.facts
            if fact.HasField("checkpoint_saved")
            and fact.checkpoint_saved.ref in self.state.run_status.checkpoints
            and fact.checkpoint_saved.upto_sequence in path
        ]
