"""From a run's record to the past that a trainer follows: where to begin, what was kept by then, what comes after."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from esper.errors import CorruptState, EsperError
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.record import Recorded, replay
from esper.record.content import tensor_digests
from esper.tolaria import checkpoint
from esper.tolaria.checkpoint import Checkpoint, Position
from esper.tolaria.past import Past
from esper.tolaria.snapshots import Snapshot
from esper.tolaria.state_tree import FlatState


def nearest(recorded: Recorded, objects: ObjectStore, *, step: int, sequence: int) -> Event | None:
    """The latest checkpoint that can be read, taken at no later step than `step` and told by `sequence`.

    None where the run's start is the nearest.
    """
    for fact in reversed(recorded.checkpoints()):
        saved = fact.checkpoint_saved
        if 0 < saved.step <= step and fact.sequence <= sequence and readable(objects, saved.ref):
            return fact
    return None


def readable(objects: ObjectStore, ref: str) -> bool:
    """Whether both objects of a checkpoint are there."""
    try:
        return checkpoint.tensors_of(objects, ref) in objects
    except EsperError:
        return False


def retrace(
    recorded: Recorded,
    objects: ObjectStore,
    *,
    start: Event | None,
    upto: int,
    claim: Event | None = None,
    watch: Callable[[Event], None] = lambda _fact: None,
    more: bool = False,
    until: int | None = None,
) -> Past:
    """The past from the checkpoint `start` (the run's beginning where that is None) to the sequence `upto`.

    `claim` is the RunResumed that was published after it. Raises CorruptState where the checkpoint is not what was
    recorded, and InvalidInput where it is missing.
    """
    first = 0 if start is None else start.checkpoint_saved.upto_sequence
    facts = [*recorded.facts[first:upto], *([claim] if claim is not None else [])]
    return Past(
        facts,
        start=None if start is None else _snapshot(objects, start),
        anchor=next((fact for fact in reversed(recorded.facts[:first]) if fact.HasField("state_digested")), None),
        checkpoints=_kept(recorded.facts[:first]),
        before=replay(recorded.facts[:first]),
        decisions=recorded.decisions,
        commands=recorded.commands,
        parts=lambda reference: tensor_digests(objects, reference),
        states=lambda sequence: _state(recorded.facts, objects, sequence),
        watch=watch,
        more=more,
        until=until,
    )


def _snapshot(objects: ObjectStore, fact: Event) -> Snapshot:
    snapshot = Snapshot(*checkpoint.load(objects, fact.checkpoint_saved.ref))
    if snapshot.root != fact.checkpoint_saved.state_digest:
        raise CorruptState(f"the checkpoint of step {fact.checkpoint_saved.step} is not the one that was recorded")
    return snapshot


def _kept(facts: Sequence[Event]) -> list[Checkpoint]:
    """The checkpoints that a trainer still counted as its own after these facts, the oldest first."""
    kept: list[Checkpoint] = []
    for fact in facts:
        if fact.HasField("checkpoint_saved"):
            saved = fact.checkpoint_saved
            where = Position(fact.run_id, fact.timeline, saved.step, fact.epoch, saved.upto_sequence)
            kept.append(Checkpoint(saved.ref, where, saved.bytes))
        elif fact.HasField("checkpoint_pruned"):
            kept = [each for each in kept if each.ref != fact.checkpoint_pruned.ref]
        elif fact.HasField("rolled_back"):
            kept = [each for each in kept if each.position.step <= fact.rolled_back.to_step]
    return kept


def _state(facts: Sequence[Event], objects: ObjectStore, sequence: int) -> FlatState | None:
    """The state after a fact, if a checkpoint of it can still be read."""
    for fact in facts:
        if fact.HasField("checkpoint_saved") and fact.checkpoint_saved.upto_sequence == sequence:
            try:
                return checkpoint.load(objects, fact.checkpoint_saved.ref)[0]
            except EsperError:
                return None
    return None
