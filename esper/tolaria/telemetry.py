"""Telemetry of the trainer: step samples while training, one packet of figures per epoch. Sheddable, all of it."""

from __future__ import annotations

from contracts.leyline.v1.event_pb2 import StepSampled
from contracts.leyline.v1.leyline_pb2 import (
    TELEMETRY_LEVEL_INFO,
    MetricPoint,
    TelemetryPacket,
)
from esper.leyline import ids
from esper.tolaria.evaluation import Evaluation
from esper.tolaria.packet import Trained
from esper.tolaria.run import Run


def sample_step(run: Run, loss: float, gradient_norm: float, step_s: float) -> None:
    """Publish what one step looked like."""
    seeds = run.kasmina.step_samples()
    rate = run.batch_size / max(step_s, 1e-9)
    run.recorder.publish(
        StepSampled(loss=loss, gradient_norm=gradient_norm, samples_per_s=rate, step_ms=1e3 * step_s, seeds=seeds)
    )


def report_epoch(run: Run, trained: Trained, evaluation: Evaluation) -> None:
    """Publish the figures of an epoch under the original's names; the epoch's own event has what Nissa alerts on."""
    verifier = run.outside.verifier
    values = {
        "tolaria.training.loss": (trained.loss, ""),
        "tolaria.training.accuracy": (evaluation.accuracy, "ratio"),
        "tolaria.epoch.duration_ms": (1e3 * trained.duration_s, "ms"),
        "tolaria.seeds.attached": (len(run.kasmina.modules()), ""),
        "tolaria.epoch_hook.latency_ms": (run.hook_ms[-1], "ms"),
        "tolaria.epochs.total": (run.recorder.epoch, ""),
        "tolaria.mode.conservative": (run.mode.on, ""),
        "tolaria.breaker.state": (run.decider_breaker.state, "state"),
        "tolaria.timeout.tamiyo_total": (run.decision_timeouts, ""),
        "tolaria.lr_controller.current_lr": (run.optimizer.groups[0]["lr"], ""),
        "tolaria.opt.rebuilds_total": (run.optimizer.rebuilds, ""),
        "tolaria.rollback.fast_size_bytes": (run.snapshots.nbytes, "B"),
        "tolaria.rollback.snapshots_total": (len(run.snapshots), ""),
        "tolaria.rollback.evictions_total": (run.snapshots.evictions, ""),
        "tolaria.grad_agg.microbatches_total": (run.config.microbatches, ""),
        "tolaria.grad_agg.conflicts": (run.gradient_conflicts, ""),
        "kasmina.nonce_ledger.size": (0 if verifier is None else verifier.remembered, ""),
        "kasmina.nonce_ledger.evictions": (0 if verifier is None else verifier.evictions, ""),
        **{f"tolaria.epoch_hook.{part}_ms": (spent, "ms") for part, spent in run.hook_parts_ms.items()},
    }
    packet = TelemetryPacket(
        packet_id=ids.text(run.recorder.new_id()),
        source_subsystem="tolaria",
        level=TELEMETRY_LEVEL_INFO,
        metrics=[MetricPoint(name=name, value=float(value), unit=unit) for name, (value, unit) in values.items()],
    )
    packet.timestamp.FromNanoseconds(run.clock.wall_ns())
    run.recorder.publish(packet)
