"""The facts of a run that count, in the order in which they happened: what a trainer follows to be there again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from esper.history.fold import evolve
from esper.history.state import RunState
from esper.leyline.envelope import Event


@dataclass(frozen=True, slots=True)
class Accepted:
    """`facts` have the sequences 1, 2, 3, ..., and `state` is the fold of them all.

    Stretches that were rolled back are among them, because they happened; void facts and repetitions are not.
    """

    facts: list[Event]
    state: RunState


def accept(events: Iterable[Event]) -> Accepted:
    """What counts of `events`, which are a run's with those of its ancestors before them, in the order of the log.

    Ends where the fold stops; `state.problem` says why.
    """
    state, facts = RunState(), list[Event]()
    for event in events:
        before, state = state, evolve(state, event)
        if state.path is not before.path and state.path is not None:
            del facts[event.sequence - 1 :]
            facts.append(event)
    return Accepted(facts, state)
