"""Going back to a state that was kept (R-TOL-19 to R-TOL-23): after a failure, at a command, or as a failed proof asks.

The fast way restores the newest snapshot in memory, the full way the newest checkpoint that can be read. Where the fast
way fails for any reason the full way is tried. A rewind is no failure: it restores the state from before the seed that
did not prove itself, and counts toward nothing that protects a run (ruling 31).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from contracts.leyline.v1.event_pb2 import LastDecision, RolledBack
from contracts.leyline.v1.leyline_pb2 import (
    EMERGENCY_LEVEL_CONSERVATIVE,
    EMERGENCY_LEVEL_ELEVATED,
    EMERGENCY_LEVEL_HALT,
    MESSAGE_PRIORITY_CRITICAL,
    EmergencyLevel,
    EmergencySignal,
)
from esper.errors import CorruptState, EsperError, LogUnavailable
from esper.tolaria.commands import drain, publish, take_effect
from esper.tolaria.kept import keep, pinned, save_checkpoint
from esper.tolaria.run import Run
from esper.tolaria.run_state import capture, publish_digest, restore, verify
from esper.tolaria.state import Checkpoint, Position, Snapshot, digest, load_checkpoint, store_checkpoint

CAUTION: Final = "rollback"
"""Why a run is in conservative mode until it has completed an epoch again."""

LEVELS: Final = ("fast", "full")
REWIND: Final = "rewind"
DEADLINE_MS: Final = {"fast": 500.0, "full": 12_000.0, REWIND: math.inf}
"""A rewind has none: nothing has failed, and nobody waits for it. The supervisor watches the others (R-OPS-12)."""


# ---------------------------------------------------------------------------------------------------------- going back


def roll_back(run: Run, reason: str, level: str) -> RolledBack:
    """Bring the newest kept state back, raise the timeline and publish what happened.

    `level` is where to begin, fast or full. Raises CorruptState where no kept state can be restored.
    """
    from_step = run.recorder.step
    watched, kept = run.windows.state(), (run.risk_memory, run.last_decision)
    back = _to_recorded(run) or (_fast(run) if level == "fast" else None) or _full(run)
    run.windows.load_state(watched)
    run.windows.end_all("rolled_back")
    _keep_decision(run, *kept, "rolled_back")
    _forget_after(run, back)
    body = _tell(run, back, RolledBack(reason=reason, from_step=from_step))
    if body.deadline_exceeded:
        publish(run, run.mode.enter(CAUTION))
        _too_late(run, body)
    return body


def _too_late(run: Run, body: RolledBack) -> None:
    """Signal that a rollback has missed its deadline; raise Halt where the run is to halt then (R-TOL-30).

    Whether it was missed is in the fact, so a replay halts where the run did. Nothing halts by default: a busy machine
    would (ruling 29).
    """
    halts = run.config.halt_at_missed_deadline
    took_ms = body.prepare_ms + body.commit_ms + body.confirm_ms
    late = f"the {body.level} rollback took {took_ms:.0f} ms, {DEADLINE_MS[body.level]:.0f} are allowed"
    _signal(run, EMERGENCY_LEVEL_HALT if halts else EMERGENCY_LEVEL_ELEVATED, late)
    if halts:
        raise Halt(f"{late}, at step {body.from_step} (halt_at_missed_deadline)")


def rewind(run: Run, seed_id: str) -> bool:
    """Go back to before the seed germinated whose proof has failed, and close its place; whether that was possible.

    Where the state is gone, as in a fork whose parent deleted it, the seed is culled, and the run goes on from here.
    """
    blueprint_id = next(seed.blueprint_id for seed in run.kasmina.observations() if seed.seed_id == seed_id)
    reason = f"{seed_id}'s proof failed"
    snapshot = pinned(run, seed_id)
    if not run.world.rewinds(snapshot is not None):
        take_effect(run, run.kasmina.close(seed_id, blueprint_id, f"{reason}, and the state before it is gone"))
        drain(run)
        return False
    from_step, watched = run.recorder.step, run.windows.state()
    kept = run.risk_memory, run.last_decision
    back = _to_recorded(run) or _to_pinned(run, snapshot)
    run.windows.end_since(watched, seed_id)
    _keep_decision(run, *kept, "rewound")
    undone = _forget_after(run, back)
    _tell(run, back, RolledBack(reason=reason, from_step=from_step, seed_id=seed_id))
    take_effect(run, run.kasmina.close(seed_id, blueprint_id, reason))
    flat = capture(run)
    save_checkpoint(run, keep(run, flat, publish_digest(run, flat, REWIND)), REWIND, undone)
    run.world.flush()
    return True


def _keep_decision(run: Run, memory: bytes, last: LastDecision | None, ended: str) -> None:
    """Put back what no rollback undoes: what risk was seen, and that a decision is still to be reported."""
    run.risk_memory, run.last_decision = memory, last
    if last is not None and not last.ended:
        last.ended = ended


def _forget_after(run: Run, back: _Restored) -> list[Checkpoint]:
    """Forget the states that were undone; returns their checkpoints."""
    run.snapshots.forget_after(back.position.sequence)
    undone = [each for each in run.checkpoints if each.position.sequence > back.position.sequence]
    run.checkpoints = [each for each in run.checkpoints if each not in undone]
    return undone


def _tell(run: Run, back: _Restored, body: RolledBack) -> RolledBack:
    """Raise the timeline, go on from where `back` is, and publish `body` with the rest of what happened."""
    run.recorder.timeline += 1
    run.recorder.step, run.recorder.epoch = back.position.step, back.position.epoch
    run.mid_epoch = False
    whole = RolledBack(
        level=back.level,
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
    whole.MergeFrom(body)
    published: RolledBack = run.recorder.publish(whole).rolled_back
    return published


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
        with _within(run, "fast"):
            phases_ms = _bring_back(run, snapshot, started)
    except (EsperError, RuntimeError, LookupError, ValueError):
        return None
    return _Restored("fast", snapshot.position, snapshot.root, phases_ms)


@contextlib.contextmanager
def _within(run: Run, level: str) -> Iterator[None]:
    """Have it watched from outside that this ends by its deadline, for a restoration that hangs tells nothing."""
    alarms = run.outside.alarms
    if alarms is None:
        yield
        return
    alarms.begins(DEADLINE_MS[level] / 1e3)
    try:
        yield
    finally:
        alarms.ends()


def _to_pinned(run: Run, snapshot: Snapshot | None) -> _Restored:
    assert snapshot is not None  # else the world would have said that there is nothing to go back to
    phases_ms = _bring_back(run, snapshot, run.clock.monotonic())
    return _Restored(REWIND, snapshot.position, snapshot.root, phases_ms)


def _full(run: Run) -> _Restored:
    """Restore the newest checkpoint that can be read."""
    broken = []
    for saved in reversed(run.checkpoints):
        started = run.clock.monotonic()
        try:
            with _within(run, "full"):
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
    if newest is not None and (stored is None or stored.position.sequence < newest.position.sequence):
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
