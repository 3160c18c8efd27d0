"""When a step must not be taken, a person wants the run back, or the log is gone."""

from __future__ import annotations

from typing import Final

from contracts.leyline.v1.leyline_pb2 import (
    EMERGENCY_LEVEL_CONSERVATIVE,
    EMERGENCY_LEVEL_HALT,
    MESSAGE_PRIORITY_CRITICAL,
    EmergencyLevel,
    EmergencySignal,
)
from esper.errors import LogUnavailable
from esper.tolaria import checkpoint
from esper.tolaria.effects import drain, publish, take_effect
from esper.tolaria.recovery import CAUTION, roll_back
from esper.tolaria.run import Run

LEVELS: Final = ("fast", "full")


class Halt(Exception):
    """The run failed too often in a row; its last good state is back in place."""


def recover(run: Run, trouble: str) -> None:
    """Undo the epoch that ran into `trouble`, lower every learning rate, and be careful for an epoch.

    The same step with the same random numbers would fail the same way, hence the lower rate. Begins with the fast way
    back, and with the full one where that did not help: then the seeds that are mixed in and have yet to prove
    themselves go as well, because no growth is worth the run. Raises Halt at the failure that is one too many.
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
    run.outside.log.flush()


def roll_back_as_asked(run: Run) -> None:
    """Carry out an accepted rollback command; its payload may say `level`, fast (the default) or full."""
    assert run.rollback_asked is not None
    level = dict(run.rollback_asked.rollback_payload).get("level", LEVELS[0])
    run.rollback_asked = None
    roll_back(run, "command", LEVELS[1] if level == LEVELS[1] else LEVELS[0])
    run.outside.log.flush()


def rescue(run: Run, error: LogUnavailable) -> LogUnavailable:
    """Make sure that the newest kept state is on disk; returns the error with where it is."""
    newest = run.snapshots.newest()
    stored = run.checkpoints[-1] if run.checkpoints else None
    if newest is not None and (stored is None or stored.position.step < newest.position.step):
        stored = checkpoint.save(run.objects, newest.flat, newest.root, newest.position)
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
