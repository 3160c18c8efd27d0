"""A recorded run trained again: in whole and compared (`replay_run`), or up to a step for its state (`state_at`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from esper.errors import CorruptState, EsperError, InvalidInput
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import Signed
from esper.record import Recorded, mark_at_step, replay, sequence_at_step
from esper.record.content import tensor_digests
from esper.record.run_status import path_from
from esper.tamiyo.decide import rederived
from esper.tolaria.appointed import TwoAtOnce
from esper.tolaria.config import RunConfig
from esper.tolaria.divergence import Diverged, Divergence, Place, RecordEnded
from esper.tolaria.fork_change import Fork
from esper.tolaria.kept import GERMINATION
from esper.tolaria.outside import Answer, Clock, Outside
from esper.tolaria.recorded_world import Record, RecordedWorld
from esper.tolaria.run_state import TargetStepReached
from esper.tolaria.state import Checkpoint, FlatState, Position, Snapshot, load_checkpoint, tensors_of_checkpoint
from esper.tolaria.train import Trainable, train
from esper.tolaria.world import LiveWorld, StartingPoint

# ----------------------------------------------------------------------------------------- from a record to its world


def first_checkpoint(recorded: Recorded, objects: ObjectStore) -> Event | None:
    """The checkpoint of step 0 if it can be read: for a machine that does not come to the same weights again."""
    saved = (fact for fact in recorded.checkpoints() if fact.checkpoint_saved.step == 0)
    return next((fact for fact in saved if _readable(objects, fact.checkpoint_saved.ref)), None)


def latest_checkpoint(recorded: Recorded, objects: ObjectStore, *, step: int, sequence: int) -> Event | None:
    """The latest checkpoint that can be read, taken at no later step than `step` and published by `sequence`.

    None where the run's start is nearer. The state from before a germination is none to begin at: it lies within the
    end of its epoch.
    """
    for fact in reversed(recorded.checkpoints()):
        saved = fact.checkpoint_saved
        begins = saved.step > 0 and saved.reason != GERMINATION
        if begins and saved.step <= step and fact.sequence <= sequence and _readable(objects, saved.ref):
            return fact
    return None


def is_kept(fact: Event, objects: ObjectStore) -> bool:
    """Whether the checkpoint of a CheckpointSaved is there."""
    return _readable(objects, fact.checkpoint_saved.ref)


def _readable(objects: ObjectStore, ref: str) -> bool:
    """Whether both objects of a checkpoint are there."""
    try:
        return tensors_of_checkpoint(objects, ref) in objects
    except EsperError:
        return False


def recorded_world(
    recorded: Recorded,
    live: LiveWorld,
    *,
    start: Event | None,
    upto: int,
    claim: Event | None = None,
    fork: Fork | None = None,
    watch: Callable[[Event], None] = lambda _fact: None,
    target_step: int | None = None,
) -> RecordedWorld:
    """The world of a run from the checkpoint `start` (its beginning where that is None) to the sequence `upto`.

    `claim` is the RunResumed that follows it, published when the world comes there: the record was followed until then.
    Raises CorruptState where the checkpoint is not what was recorded, and InvalidInput where it is missing.
    """
    first = 0 if start is None else start.checkpoint_saved.upto_sequence
    facts = [*recorded.facts[first:upto], *([claim] if claim is not None else [])]
    begin = None if start is None else _starting_point(recorded.facts[:first], start, live.outside.objects)
    record = _record(recorded, live.outside.objects)
    return RecordedWorld(facts, record, live, start=begin, claim=claim, fork=fork, watch=watch, target_step=target_step)


def _record(recorded: Recorded, objects: ObjectStore) -> Record:
    return Record(
        decisions=recorded.decisions,
        commands=recorded.commands,
        tensor_digests=lambda reference: tensor_digests(objects, reference),
        state_after=lambda sequence: _state_after(recorded.facts, objects, sequence),
    )


def recorded_snapshot(fact: Event, objects: ObjectStore) -> Snapshot:
    """The state of a CheckpointSaved; raises CorruptState where it is not that, InvalidInput where it is missing."""
    saved = fact.checkpoint_saved
    snapshot = Snapshot(*load_checkpoint(objects, saved.ref))
    if snapshot.root != saved.state_digest:
        raise CorruptState(f"the checkpoint of step {saved.step} is not the one that was recorded")
    return snapshot


def _starting_point(before: Sequence[Event], start: Event, objects: ObjectStore) -> StartingPoint:
    saved = start.checkpoint_saved
    snapshot = recorded_snapshot(start, objects)
    return StartingPoint(snapshot, replay(before), _last_digest(before), _kept(before), saved.reason)


def _last_digest(facts: Sequence[Event]) -> Event | None:
    return next((fact for fact in reversed(facts) if fact.HasField("state_digested")), None)


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
            kept = [each for each in kept if each.position.sequence <= fact.rolled_back.to_sequence]
    return kept


def _state_after(facts: Sequence[Event], objects: ObjectStore, sequence: int) -> FlatState | None:
    """The state after a fact, if a checkpoint of it can still be read."""
    for fact in facts:
        if fact.HasField("checkpoint_saved") and fact.checkpoint_saved.upto_sequence == sequence:
            try:
                return load_checkpoint(objects, fact.checkpoint_saved.ref)[0]
            except EsperError:
                return None
    return None


class NullLog:
    """A log that keeps nothing, for a run that is trained again and not continued."""

    def publish(self, event: Event) -> None:
        """Drop it."""

    def flush(self, timeout_s: float = 30.0) -> None:
        """Return at once."""

    def claim(self, event: Event) -> None:
        """Drop it."""

    def await_answer(self, packet_id: bytes, timeout_s: float) -> Answer | None:  # noqa: ARG002 (it never waits)
        """No answer."""
        return None

    def take_commands(self) -> list[Signed]:
        """No commands."""
        return []

    def await_command(self, timeout_s: float) -> None:
        """Return at once: none will ever come."""

    def shed(self) -> int:
        """None."""
        return 0


# ---------------------------------------------------------------------------------------------------------- replaying


@dataclass(slots=True)
class Replayed:
    """How far a replay came. `from_step` is where it began, `step` where it is."""

    from_step: int = 0
    step: int = 0
    steps: int = 0
    facts: int = 0
    digests_checked: int = 0
    decisions_checked: int = 0
    decisions_of_another_policy: int = 0
    diverged: Divergence | None = None
    wall_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "digests_checked": self.digests_checked,
            "decisions_checked": self.decisions_checked,
            "decisions_of_another_policy": self.decisions_of_another_policy,
            "facts_checked": self.facts,
            "from_step": self.from_step,
            "to_step": self.step,
            "steps": self.steps,
            "wall_s": round(self.wall_s, 3),
            "diverged": self.diverged is not None,
            "place": None if self.diverged is None else self.diverged.to_dict(),
        }


def replay_run(
    recorded: Recorded,
    task: Trainable,
    *,
    objects: ObjectStore,
    clock: Clock,
    from_step: int = 0,
    to_step: int | None = None,
    watch: Callable[[Replayed], None] = lambda _progress: None,
    before: Callable[[Recorded], Trainable] | None = None,
) -> Replayed:
    """Train `recorded` again from the nearest kept checkpoint at or before `from_step`, up to `to_step` or its end.

    Nothing is written anywhere. Ends at the first divergence. `watch` is shown the progress after every fact. Where a
    person went on with mended files, `before` gives what the record up to there was trained with; `task` is the last.
    Raises InvalidInput where the record lacks what it takes, and whatever the model raises where it did not raise that
    before.
    """
    last = recorded.facts[-1].sequence if to_step is None else sequence_at_step(recorded.state, to_step)
    start = latest_checkpoint(recorded, objects, step=from_step, sequence=last)
    began = clock.monotonic()
    progress = Replayed(from_step=0 if start is None else start.checkpoint_saved.step)
    progress.digests_checked = int(start is not None)  # the one of the state that it begins with
    done = 0

    def followed(fact: Event) -> None:
        nonlocal done
        if fact.sequence <= done:
            return  # one that whoever went on with other files followed as well
        done = fact.sequence
        progress.facts += 1
        progress.digests_checked += fact.HasField("state_digested")
        progress.steps += max(0, fact.global_step - progress.step) if progress.facts > 1 else 0
        progress.step = fact.global_step
        progress.wall_s = clock.monotonic() - began
        if fact.HasField("epoch_completed") and fact.event_id in recorded.decisions:
            _check_decision(recorded.decisions[fact.event_id], fact, objects, progress)
        watch(progress)

    first = 0 if start is None else start.checkpoint_saved.upto_sequence
    mends = [] if before is None else [each for each in _mends(recorded) if first <= each[0] and each[1] < last]
    begin = None if start is None else _starting_point(recorded.facts[:first], start, objects)
    for place, accepted in mends:
        assert before is not None
        part = replace(recorded, facts=recorded.facts[:accepted])
        world = _world(part, begin, accepted, _stopped(clock, objects), followed)
        world.keep(place)
        _follow(part, before(part), world, progress, followed)
        if progress.diverged is not None:
            break
        begin = _begin_again(recorded.facts, place, world.kept(place))
    else:
        world = _world(recorded, begin, last, _stopped(clock, objects), followed)
        _follow(recorded, task, world, progress, followed)
    progress.wall_s = clock.monotonic() - began
    return progress


def _stopped(clock: Clock, objects: ObjectStore) -> LiveWorld:
    """What lies behind the last recorded fact: a world in which the run is asked to stop at once."""
    return LiveWorld(Outside(NullLog(), clock, objects, should_stop=lambda: True))


def _world(
    recorded: Recorded, begin: StartingPoint | None, upto: int, live: LiveWorld, followed: Callable[[Event], None]
) -> RecordedWorld:
    """The world of a run from `begin` on, up to the sequence `upto`."""
    first = 0 if begin is None else begin.before.sequence
    record = _record(recorded, live.outside.objects)
    return RecordedWorld(recorded.facts[first:upto], record, live, start=begin, watch=followed)


def _mends(recorded: Recorded) -> list[tuple[int, int]]:
    """Where a person went on with mended files: the state that they began with, and the last fact before that counts.

    None where they began at the run's first step: then the files as they were last come to the whole record.
    """
    found = []
    for claim in recorded.facts:
        body = claim.run_resumed
        if not body.HasField("script") or not body.checkpoint_ref:
            continue
        before = recorded.facts[: body.accepted_sequence]
        kept = (fact.sequence for fact in reversed(before) if _is_kept_at(fact, body.from_step))
        if place := next(kept, 0):
            claims = itertools.takewhile(lambda each: each.HasField("run_resumed"), before[place:])
            found.append((place + len(list(claims)), body.accepted_sequence))  # they belong to the place
    return found


def _is_kept_at(fact: Event, step: int) -> bool:
    is_kept = fact.HasField("state_digested") and fact.state_digested.occasion != GERMINATION
    return is_kept and fact.global_step == step


def _begin_again(facts: Sequence[Event], sequence: int, snapshot: Snapshot) -> StartingPoint:
    """A run's place after the fact `sequence`, with the state that a replay came to there."""
    reason = next(fact.checkpoint_saved.reason for fact in facts[sequence:] if fact.HasField("checkpoint_saved"))
    before = facts[:sequence]
    return StartingPoint(snapshot, replay(before), _last_digest(before), _kept(before), reason)


def _follow(
    recorded: Recorded,
    task: Trainable,
    world: RecordedWorld,
    progress: Replayed,
    followed: Callable[[Event], None],
) -> None:
    """Train in a recorded world up to its end or the first difference, which `progress` has then."""
    begun = recorded.begun(0 if world.start is None else world.start.snapshot.position.sequence)
    try:
        train(RunConfig.from_json(begun.run_started.config_json), task, world, run_id=begun.run_id)
        progress.diverged = world.first_difference
    except RecordEnded as ended:
        progress.diverged = world.first_difference
        if progress.diverged is None:
            followed(ended.end)
    except Diverged as error:
        progress.diverged = error.divergence
    except TwoAtOnce:
        raise
    except Exception:
        if world.end is not None:  # it raised at an epoch's end, and does so again
            followed(world.end)
        elif not world.over:
            raise


def _check_decision(signed: Signed, packet: Event, objects: ObjectStore, progress: Replayed) -> None:
    """Derive a decision again; raises Diverged where it comes out otherwise."""
    made = Event.FromString(signed.payload).decision_made
    try:
        wrong = rederived(made, packet, objects)
    except InvalidInput as error:
        wrong = str(error)
    if wrong is None:
        progress.decisions_of_another_policy += 1
        return
    if wrong:
        raise Diverged(Divergence(Place.of(packet), f"the decision on this packet: {wrong}"))
    progress.decisions_checked += 1


# -------------------------------------------------------------------------------------------------- the state at a step


def state_at(
    recorded: Recorded,
    task: Trainable,
    *,
    objects: ObjectStore,
    clock: Clock,
    step: int,
    watch: Callable[[Event], None] = lambda _fact: None,
) -> FlatState:
    """The state after `step` optimiser steps of the surviving timeline and all that happened at that step.

    Every recorded digest on the way is compared. Raises CorruptState where the run does not come to what is on record
    again, and InvalidInput where the record lacks what it takes.
    """
    mark = mark_at_step(recorded.state, step)
    # The end changes nothing, and a run that has ended takes no further step.
    upto = next((each.sequence for each in path_from(mark) if each.body != "run_finished"), 0)
    start = latest_checkpoint(recorded, objects, step=step, sequence=upto)
    begun = recorded.begun(0 if start is None else start.sequence)
    live = LiveWorld(Outside(NullLog(), clock, objects))
    world = recorded_world(recorded, live, start=start, upto=upto, watch=watch, target_step=step)
    try:
        train(RunConfig.from_json(begun.run_started.config_json), task, world, run_id=begun.run_id)
    except TargetStepReached as reached:
        if world.first_difference is not None:
            what = world.first_difference
            raise CorruptState(f"run {recorded.run_id} does not come to its record again: {what}") from None
        return reached.state
    except Diverged as error:
        raise CorruptState(f"run {recorded.run_id} does not come to its record again: {error.divergence}") from None
    raise CorruptState(f"run {recorded.run_id} ends before step {step} when it is trained again")
