"""The states that a run keeps to go back to: the newest in memory, checkpoints on disk, and the pins of seeds.

A pin is the state from before a seed of the `swift` profile germinated, which the run goes back to where the seed's
proof fails (`rollback.rewind`). It is a checkpoint of its own, so that the run can be resumed between the two, and
stays as long as a state is kept in which that proof is yet to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from contracts.leyline.v1.event_pb2 import CheckpointPruned, CheckpointSaved, SeedTransitioned
from contracts.leyline.v1.leyline_pb2 import SEED_LIFECYCLE_STAGE_CULLED, SEED_LIFECYCLE_STAGE_FOSSILIZED
from esper.errors import EsperError
from esper.tolaria.run import Run
from esper.tolaria.run_state import capture, publish_digest, with_progress
from esper.tolaria.state import Checkpoint, Digest, FlatState, Pin, Position, Snapshot, load_checkpoint

GERMINATION: Final = "germination"
"""Why a digest and a checkpoint are there: the state from before a germination."""

_ENDS: Final = (SEED_LIFECYCLE_STAGE_FOSSILIZED, SEED_LIFECYCLE_STAGE_CULLED)


def keep(run: Run, flat: FlatState, found: Digest) -> Snapshot:
    """Remember the run's state in memory."""
    snapshot = _snapshot(run, with_progress(run, flat), found)
    run.snapshots.add(snapshot)
    run.world.remember(snapshot)
    return snapshot


def _snapshot(run: Run, flat: FlatState, found: Digest) -> Snapshot:
    recorder = run.recorder
    where = Position(recorder.run_id, recorder.timeline, recorder.step, recorder.epoch, run.world.sequence)
    return Snapshot(flat, found.root, where)


def save_checkpoint(run: Run, snapshot: Snapshot, reason: str, undone: Sequence[Checkpoint] = ()) -> None:
    """Store a state durably, publish that, and prune what is older than the newest few, and what was `undone`."""
    with run.outside.span("checkpoint"):
        _save(run, snapshot, reason)
        _prune(run, undone)


def _save(run: Run, snapshot: Snapshot, reason: str) -> Checkpoint:
    started = run.clock.monotonic()
    saved = run.world.save_checkpoint(snapshot)
    run.checkpoints.append(saved)
    run.recorder.publish(
        CheckpointSaved(
            ref=saved.ref,
            step=saved.position.step,
            bytes=saved.bytes,
            state_digest=snapshot.root,
            upto_sequence=saved.position.sequence,
            reason=reason,
            duration_ms=1e3 * (run.clock.monotonic() - started),
        )
    )
    return saved


def _prune(run: Run, undone: Sequence[Checkpoint] = ()) -> None:
    """Delete the run's oldest checkpoints, once the log has the newest. A fork deletes none of its parent's."""
    own = [each for each in run.checkpoints if each.position.run_id == run.recorder.run_id]
    surplus = [each for each in undone if each.position.run_id == run.recorder.run_id]
    others = [each for each in own if each.ref not in {pin.ref for pin in run.pins}]
    kept = others[-run.config.keep_checkpoints :] if run.config.keep_checkpoints else others
    _unpin(run, [each.position.step for each in kept])
    pinned = {pin.ref for pin in run.pins}
    surplus += [each for each in own if each not in kept and each.ref not in pinned]
    _delete(run, run.world.surplus(surplus))


def _delete(run: Run, surplus: Sequence[Checkpoint]) -> None:
    if surplus:
        run.world.flush()  # a process that dies here must not leave a record of checkpoints that are gone alone
    gone = {each.ref for each in surplus}
    run.checkpoints = [each for each in run.checkpoints if each.ref not in gone]
    for oldest in surplus:
        freed = run.world.delete_checkpoint(oldest)
        run.recorder.publish(CheckpointPruned(ref=oldest.ref, step=oldest.position.step, bytes_freed=freed))


# ---------------------------------------------------------------------------------------------------------------- pins


def before_germination(run: Run) -> FlatState | None:
    """The state to go back to, captured before a germination changes it; None where the newest kept one is that.

    An epoch is repeated whole. So a germination between two of its steps is undone as of the epoch's beginning, and one
    that follows from the epoch's decision as of that decision.
    """
    return None if run.mid_epoch else capture(run)


def pin(run: Run, seed_id: str, before: FlatState | None) -> None:
    """Keep what `before_germination` gave until the seed has proven itself; published before the germination is."""
    saved = _saved_before(run, before)
    run.pins.append(Pin(seed_id, saved.ref, saved.position))
    _prune(run)


def _saved_before(run: Run, before: FlatState | None) -> Checkpoint:
    if before is not None:
        snapshot = _snapshot(run, with_progress(run, before), publish_digest(run, before, GERMINATION))
        run.world.remember(snapshot)
        run.snapshots.pin(snapshot)
        return _save(run, snapshot, GERMINATION)
    newest, stored = run.snapshots.newest(), run.checkpoints[-1] if run.checkpoints else None
    if stored is not None and (newest is None or newest.position.sequence <= stored.position.sequence):
        return stored
    assert newest is not None  # the state at its first step is kept before anything else happens to a run
    run.snapshots.pin(newest)
    return _save(run, newest, GERMINATION)


def pinned(run: Run, seed_id: str) -> Snapshot | None:
    """The state from before the seed germinated; None where it is gone or cannot be read."""
    found = next((each for each in reversed(run.pins) if each.seed_id == seed_id and each.ended_step is None), None)
    if found is None:
        return None
    try:
        return run.snapshots.pinned(found.position.sequence) or Snapshot(*load_checkpoint(run.objects, found.ref))
    except EsperError:
        return None


def seed_ended(run: Run, transition: SeedTransitioned) -> None:
    """A seed became part of the host, or is gone: no proof of it is to come from here on."""
    if transition.to_stage in _ENDS:
        run.pins = [
            replace(each, ended_step=run.recorder.step)
            if each.seed_id == transition.seed_id and each.ended_step is None
            else each
            for each in run.pins
        ]


def _unpin(run: Run, kept_steps: Sequence[int]) -> None:
    """Forget the pins that no kept state needs: those of `kept_steps`, of other pins, and the run as it is now."""
    needed, steps = list[Pin](), list(kept_steps)
    for each in reversed(run.pins):
        begun, ended = each.position.step, each.ended_step
        if ended is None or any(begun <= step < ended for step in steps):
            needed.insert(0, each)
            steps.append(begun)
    run.pins = needed
    run.snapshots.release({each.position.sequence for each in needed})
