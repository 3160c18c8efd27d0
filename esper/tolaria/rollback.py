"""Keeping states of a run and going back to them (R-TOL-19 to R-TOL-23), after a failure or because of a command.

The fast way restores the newest snapshot in memory, the full way the newest checkpoint that can be read. Where the fast
way fails for any reason the full way is tried.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from contracts.leyline.v1.event_pb2 import CheckpointPruned, CheckpointSaved, RolledBack
from contracts.leyline.v1.leyline_pb2 import (
    EMERGENCY_LEVEL_CONSERVATIVE,
    EMERGENCY_LEVEL_HALT,
    MESSAGE_PRIORITY_CRITICAL,
    EmergencyLevel,
    EmergencySignal,
)
from esper.errors import CorruptState, EsperError, LogUnavailable
from esper.tolaria.commands import drain, publish, take_effect
from esper.tolaria.run import Run, capture, restore, verify, with_progress
from esper.tolaria.state import Digest, FlatState, Position, Snapshot, digest, load_checkpoint, store_checkpoint

CAUTION: Final = "rollback"
"""Why a run is in conservative mode until it has completed an epoch again."""

DEADLINE_MS: Final = {"fast": 500.0, "full": 12_000.0}
LEVELS: Final = ("fast", "full")


def keep(run: Run, flat: FlatState, found: Digest) -> Snapshot:
    """Remember the run's state in memory."""
    recorder = run.recorder
    where = Position(recorder.run_id, recorder.timeline, recorder.step, recorder.epoch, run.world.sequence)
    snapshot = Snapshot(with_progress(run, flat), found.root, where)
    run.snapshots.add(snapshot)
    run.world.remember(snapshot)
    return snapshot


def save_checkpoint(run: Run, snapshot: Snapshot, reason: str) -> None:
    """Store a state durably, publish that, and prune what is older than the newest few."""
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
    _prune(run)


def _prune(run: Run) -> None:
    """Delete the run's oldest checkpoints, once the log has the newest. A fork deletes none of its parent's."""
    own = [each for each in run.checkpoints if each.position.run_id == run.recorder.run_id]
    surplus = own[: -run.config.keep_checkpoints] if run.config.keep_checkpoints else []
    if surplus:
        run.world.flush()  # a process that dies here must not leave a record of checkpoints that are gone alone
    for oldest in surplus:
        run.checkpoints.remove(oldest)
        freed = run.world.delete_checkpoint(oldest)
        run.recorder.publish(CheckpointPruned(ref=oldest.ref, step=oldest.position.step, bytes_freed=freed))


# ---------------------------------------------------------------------------------------------------------- going back


def roll_back(run: Run, reason: str, level: str) -> RolledBack:
    """Bring the newest kept state back, raise the timeline and publish what happened.

    `level` is where to begin, fast or full. Raises CorruptState where no kept state can be restored.
    """
    from_step = run.recorder.step
    watched = run.windows.state()
    back = _to_recorded(run) or (_fast(run) if level == "fast" else None) or _full(run)
    run.windows.load_state(watched)
    run.windows.end_all("rolled_back")
    run.snapshots.forget_after(back.position.step)
    run.checkpoints = [each for each in run.checkpoints if each.position.step <= back.position.step]
    run.recorder.timeline += 1
    run.recorder.step, run.recorder.epoch = back.position.step, back.position.epoch
    body = RolledBack(
        level=back.level,
        reason=reason,
        from_step=from_step,
        to_step=back.position.step,
        to_epoch=back.position.epoch,
        to_sequence=back.position.sequence,
        new_timeline=run.recorder.timeline,
        checkpoint_ref=back.checkpoint_ref,
        state_digest=back.root,
        prepare_ms=back.phases_ms[0],
        commit_ms=back.phases_ms[1],
        confirm_ms=back.phases_ms[2],
        deadline_exceeded=sum(back.phases_ms) > DEADLINE_MS[back.level],
    )
    body = run.recorder.publish(body).rolled_back
    if body.deadline_exceeded:
        publish(run, run.mode.enter(CAUTION))
    return body


@dataclass(frozen=True, slots=True)
class _Restored:
    """A finished restoration: its level, the state restored, the time of its phases prepare, commit and confirm."""

    level: str
    position: Position
    root: bytes
    phases_ms: tuple[float, float, float]
    checkpoint_ref: str = ""


def _to_recorded(run: Run) -> _Restored | None:
    """Restore the state that a recorded rollback goes back to; None where none is on record here."""
    target = run.world.rollback_target()
    if target is None:
        return None
    level, snapshot = target
    phases_ms = _bring_back(run, snapshot, run.clock.monotonic())
    return _Restored(level, snapshot.position, snapshot.root, phases_ms)


def _fast(run: Run) -> _Restored | None:
    """Restore the newest snapshot; None where there is none or any phase fails, so that the full way is tried."""
    started = run.clock.monotonic()
    snapshot = run.snapshots.newest()
    if snapshot is None:
        return None
    try:
        phases_ms = _bring_back(run, snapshot, started)
    except (EsperError, RuntimeError, LookupError, ValueError):
        return None
    return _Restored("fast", snapshot.position, snapshot.root, phases_ms)


def _full(run: Run) -> _Restored:
    """Restore the newest checkpoint that can be read."""
    broken = []
    for saved in reversed(run.checkpoints):
        started = run.clock.monotonic()
        try:
            snapshot = Snapshot(*load_checkpoint(run.objects, saved.ref))
            phases_ms = _bring_back(run, snapshot, started)
        except EsperError as error:
            broken.append(str(error))
        else:
            return _Restored("full", snapshot.position, snapshot.root, phases_ms, saved.ref)
    raise CorruptState(
        f"no checkpoint of run {run.recorder.run_id} can be restored: {'; '.join(broken) or 'none kept'}"
    )


def _bring_back(run: Run, snapshot: Snapshot, started: float) -> tuple[float, float, float]:
    """Verify a kept state, load it, confirm that the run has it now; returns how long each took, in ms."""
    verify(snapshot.flat, snapshot.root, snapshot.position.step)
    prepared = run.clock.monotonic()
    restore(run, snapshot.flat)
    committed = run.clock.monotonic()
    if digest(capture(run)).root != snapshot.root:
        raise CorruptState(f"the state restored for step {snapshot.position.step} does not have the digest it had")
    confirmed = run.clock.monotonic()
    return 1e3 * (prepared - started), 1e3 * (committed - prepared), 1e3 * (confirmed - committed)


# ---------------------------------------------------------------------------------------- when a step must not be taken


class Halt(Exception):
    """The run failed too often in a row; its last good state is back in place."""


def recover(run: Run, trouble: str) -> None:
    """Undo the epoch that ran into `trouble`, lower every learning rate, and let nothing grow for an epoch.

    The same step with the same random numbers would fail the same way, hence the lower rate. The first failure takes
    the fast way back. A second one in the same epoch takes the full way, and culls the seeds that are mixed in and not
    fossilized yet. Raises Halt at the failure that is one too many.
    """
    run.failures_in_a_row += 1
    failures, limit = run.failures_in_a_row, run.config.max_rollbacks
    halting = failures >= limit
    _signal(run, EMERGENCY_LEVEL_HALT if halting else EMERGENCY_LEVEL_CONSERVATIVE, trouble)
    step, epoch = run.recorder.step, run.recorder.epoch
    roll_back(run, trouble, LEVELS[0] if failures == 1 else LEVELS[1])
    if halting:
        raise Halt(f"{trouble} at step {step}, for the {failures}. time without a completed epoch (epoch {epoch + 1})")
    publish(run, run.mode.enter(CAUTION))
    if failures > 1:
        take_effect(run, run.kasmina.evict(f"rollback: {trouble}"))
        drain(run)
    if run.config.rollback_rate_factor != 1.0:
        publish(run, run.rates.scale(run.config.rollback_rate_factor, f"rollback: {trouble}", run.recorder.step))
    run.world.flush()


def roll_back_as_asked(run: Run) -> None:
    """Carry out an accepted rollback command; its payload may say `level`, fast (the default) or full."""
    assert run.rollback_asked is not None
    level = dict(run.rollback_asked.rollback_payload).get("level", LEVELS[0])
    run.rollback_asked = None
    roll_back(run, "command", LEVELS[1] if level == LEVELS[1] else LEVELS[0])
    run.world.flush()


def rescue(run: Run, error: LogUnavailable) -> LogUnavailable:
    """Make sure that the newest kept state is on disk; returns the error with where it is."""
    newest = run.snapshots.newest()
    stored = run.checkpoints[-1] if run.checkpoints else None
    if newest is not None and (stored is None or stored.position.step < newest.position.step):
        with contextlib.suppress(OSError):  # the disk that the log cannot write to may be the one that is full
            stored = store_checkpoint(run.objects, newest.flat, newest.root, newest.position)
    where = "nothing of it is kept" if stored is None else f"step {stored.position.step} is kept as {stored.ref}"
    return LogUnavailable(f"{error}; run {run.recorder.run_id} stopped at step {run.recorder.step}: {where}")


def _signal(run: Run, level: EmergencyLevel, reason: str) -> None:
    signal = EmergencySignal(
        version=1,
        level=level,
        reason=reason,
        origin="tolaria",
        monotonic_time_ms=round(1e3 * run.clock.monotonic()),
        run_id=run.recorder.run_id,
    )
    signal.triggered_at.FromNanoseconds(run.clock.wall_ns())
    run.recorder.publish(signal, priority=MESSAGE_PRIORITY_CRITICAL)
