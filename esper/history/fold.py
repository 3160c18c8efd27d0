"""The fold: `evolve(state, event)` and `replay(events)`, pure, deterministic, equal to the SQL in `projections/sql`.

The rules (ruling 3), in the order in which a fact meets them:

1. Only the facts of `esper.runs` count; anything else leaves the state as it is.
2. A stopped run stays stopped.
3. A fact of an incarnation that another one superseded is void, whatever its offset. So is a claim to an incarnation
   that was claimed before: of two claims the lower offset wins.
4. A claim (the run's start, or a resume by a higher incarnation) must follow a fact that is on the path; whatever lies
   behind that fact is void.
5. Any other fact has the next sequence. A lower one with a known id is a repetition, which is skipped.
6. A rollback restores the world after a fact that is on the path.
7. A seed that the run declared moves from the stage it is in, by a move that the lifecycle has.
8. A fork begins after the fact of its parent that it shares last, and its sequences go on from there. Its fold takes
   the parent's facts first (`projections.lineage` gives them all in this order) or, without them, begins with the seeds
   that its first fact says it inherited; then only a rollback to a fact of the parent's cannot be followed. The SQL
   begins so too, and looks among the facts of the parent and of its parents where a fork goes back behind that.

A fact that breaks one of these stops the fold of that run, and `RunState.problem` says so; it is never left out
silently. Facts must come in the order of the log; how they are mixed with other topics does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from contracts.topics import BY_BODY, RUNS
from esper.history import facts
from esper.history.ledger import Ledger
from esper.history.state import Mark, Problem, ProblemKind, RunState, Standing, World, marks
from esper.kasmina import lifecycle
from esper.leyline.envelope import Event

_CLAIMS: Final = ("run_started", "run_resumed")


def replay(events: Iterable[Event], state: RunState | None = None) -> RunState:
    """The state after `events` of one run, which come in the order of the log."""
    folded = state or RunState()
    for event in events:
        folded = evolve(folded, event)
    return folded


def evolve(state: RunState, event: Event) -> RunState:  # noqa: PLR0911  one line a rule, in their order
    """The state after one more event. Never raises for what is on the log: a wrong fact sets `problem`."""
    name = event.WhichOneof("body")
    if name is None or BY_BODY[name] is not RUNS or state.problem is not None:
        return state
    if name == "run_started" and state.run_id not in ("", event.run_id):
        return _forked(state, event)
    if event.incarnation < state.incarnation:
        return replace(state, void=state.void + 1)
    if name in _CLAIMS and (event.incarnation > state.incarnation or state.path is None):
        return _claimed(state, event, name)
    if state.path is None:
        return _stopped(state, event, "not_started", f"{name} comes before the run's start")
    if event.incarnation > state.incarnation:
        return _stopped(state, event, "unclaimed", f"{name} is of incarnation {event.incarnation}, which never claimed")
    if name in _CLAIMS and state.ledger.id_of(event.sequence) != event.event_id:
        return replace(state, void=state.void + 1)
    return _followed(state, event, name)


def _claimed(state: RunState, event: Event, name: str) -> RunState:  # noqa: PLR0911  as above
    """The run's start, or the claim of a higher incarnation."""
    if name == "run_started":
        if state.path is not None:
            return _stopped(state, event, "bad_claim", "the run was started before")
        if event.incarnation == 0:
            return _stopped(state, event, "not_started", "the start is of no incarnation")
        shared = event.run_started.parent_sequence
        if event.sequence != shared + 1:
            return _stopped(
                state, event, "gap", f"the run starts with sequence {event.sequence} instead of {shared + 1}"
            )
        begun = _named(replace(state, ledger=Ledger.after(shared)), event)
        return _accepted(begun, event, name, *facts.started(event), previous=None)
    if state.path is None:
        return _stopped(state, event, "not_started", "it is resumed before it was started")
    accepted = event.run_resumed.accepted_sequence
    target = _on_path(state, accepted)
    if target is None or event.sequence != accepted + 1:
        return _stopped(state, event, "bad_claim", f"incarnation {event.incarnation} goes on from sequence {accepted}")
    owned = replace(state, incarnation=event.incarnation, ledger=state.ledger.cut(accepted))
    return _accepted(owned, event, name, target.world, facts.resumed(target.standing, event), previous=target)


def _forked(state: RunState, event: Event) -> RunState:
    """The first fact of a fork after the facts of its parent."""
    body = event.run_started
    target = _on_path(state, body.parent_sequence)
    if body.parent_run_id != state.run_id or target is None or event.sequence != body.parent_sequence + 1:
        return _stopped(state, event, "bad_claim", f"{event.run_id} does not go on from {state.run_id}")
    child = _named(replace(state, ledger=state.ledger.cut(body.parent_sequence)), event)
    standing = facts.resumed(target.standing, event)
    return _accepted(child, event, "run_started", target.world, standing, previous=target)


def _named(state: RunState, event: Event) -> RunState:
    body = event.run_started
    return replace(state, run_id=event.run_id, task=body.task, policy=body.policy, incarnation=event.incarnation)


def _followed(state: RunState, event: Event, name: str) -> RunState:  # noqa: PLR0911  as above
    """A fact of the incarnation that owns the run."""
    if event.sequence <= state.sequence:
        if state.ledger.id_of(event.sequence) == event.event_id:
            return replace(state, duplicates=state.duplicates + 1)
        return _stopped(state, event, "conflict", f"{name} is the second fact with this sequence")
    if event.sequence > state.sequence + 1:
        return _stopped(state, event, "gap", f"the fact before {name} is missing: the last one was {state.sequence}")
    if name == "rolled_back":
        return _rolled_back(state, event)
    if name == "seed_transitioned" and (reason := _illegal(state.world, event)):
        return _stopped(state, event, "illegal_transition", reason)
    if name not in facts.KNOWN:
        return _stopped(state, event, "unknown_fact", f"this fold does not know {name}")
    world, standing = state.world, state.standing
    if (to_world := facts.TO_WORLD.get(name)) is not None:
        world = to_world(world, event)
    if (to_standing := facts.TO_STANDING.get(name)) is not None:
        standing = to_standing(standing, event)
    return _accepted(state, event, name, world, standing, previous=state.path)


def _rolled_back(state: RunState, event: Event) -> RunState:
    body = event.rolled_back
    target = _on_path(state, body.to_sequence)
    if target is None:
        return _stopped(state, event, "bad_rollback", f"sequence {body.to_sequence} is not part of this timeline")
    world = target.world.at(body.to_step, body.to_epoch)
    standing = facts.rolled_back(state.standing, event)
    return _accepted(state, event, "rolled_back", world, standing, previous=target, moves_clock=False)


def _accepted(
    state: RunState,
    event: Event,
    name: str,
    world: World,
    standing: Standing,
    *,
    previous: Mark | None,
    moves_clock: bool = True,
) -> RunState:
    """`state` with the fact on its path, and the run's clock at the fact's."""
    if moves_clock and (world.step != event.global_step or world.epoch != event.epoch):
        world = world.at(event.global_step, event.epoch)
    path = Mark(event.sequence, name, world, standing, previous)
    return state.followed(path, state.ledger.appended(event.event_id))


def _on_path(state: RunState, sequence: int) -> Mark | None:
    for mark in marks(state):
        if mark.sequence <= sequence:
            return mark if mark.sequence == sequence else None
    return None


def _illegal(world: World, event: Event) -> str | None:
    """Why a transition cannot be, or None. A seed's first may come from UNKNOWN: the creation of its slot."""
    body: Any = event.seed_transitioned
    seed = world.seeds.get(body.seed_id)
    if seed is None:
        return f"{body.seed_id!r} is no seed of this run"
    if body.from_stage != seed.stage and (seed.moved or body.from_stage != lifecycle.UNKNOWN):
        return f"{body.seed_id} leaves stage {body.from_stage} and is in {seed.stage}"
    if not lifecycle.is_legal(body.from_stage, body.to_stage):
        return f"{body.seed_id} cannot go from stage {body.from_stage} to {body.to_stage}"
    return None


def _stopped(state: RunState, event: Event, kind: ProblemKind, detail: str) -> RunState:
    problem = Problem(kind, event.sequence, detail)
    return replace(state, run_id=state.run_id or event.run_id, problem=problem)
