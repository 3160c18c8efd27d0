"""What a run came to: the object that `esper run --json` prints, and the run's last fact."""

from __future__ import annotations

import contextlib
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from contracts.leyline.v1.event_pb2 import RunFinished
from esper.errors import LogUnavailable
from esper.kasmina.lifecycle import name as stage_name
from esper.tolaria.evaluation import evaluate
from esper.tolaria.run import Run


@dataclass(frozen=True, slots=True)
class RunResult:
    """The end of a run. `val_accuracy` and `test_loss` are of the test set, which nothing else looks at.

    `control_val_accuracy` is filled in by whoever ran a control beside it. `fates` is the last word on each slot that
    ever grew: stage, blueprint and alpha. `flops` holds training, side_pass and probe.
    """

    run_id: str
    status: str
    reason: str
    task: str
    seed: int
    epochs: int
    val_accuracy: float
    test_loss: float
    params_host: int
    params_final: int
    seeds: dict[str, int]
    events: int
    hook_ms: dict[str, float]
    wall_s: float
    flops: dict[str, float]
    fates: dict[str, dict[str, Any]] = field(default_factory=dict)
    control_val_accuracy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def finish(run: Run, status: str, reason: str, wall_s: float) -> RunResult:
    """Look at the test set, publish RunFinished, wait until the log has it, and return the result."""
    test = evaluate(run.host, run.task, run.task.test)
    seeds = run.kasmina.summary()
    _publish_end(run, status, reason, wall_s, test_accuracy=test.accuracy, test_loss=test.loss.mean)
    return RunResult(
        run_id=run.recorder.run_id,
        status=status,
        reason=reason,
        task=run.task.name,
        seed=run.config.seed,
        epochs=run.recorder.epoch,
        val_accuracy=test.accuracy,
        test_loss=test.loss.mean,
        params_host=run.params_host,
        params_final=run.params,
        seeds=seeds,
        events=run.world.published - run.outside.log.shed(),
        hook_ms={f"p{q}": float(np.percentile(run.hook_ms, q)) if run.hook_ms else 0.0 for q in (50, 99)},
        wall_s=wall_s,
        flops=dict(run.flops.spent),
        fates={
            seed.seed_id: {"stage": stage_name(seed.stage), "blueprint": seed.blueprint_id, "alpha": seed.alpha}
            for seed in run.kasmina.observations()
            if seed.life
        },
    )


def abandon(run: Run, error: Exception, wall_s: float) -> None:
    """Publish that the run failed of `error`, which the caller raises on: a model that raises is tested no more.

    Does nothing where the run has not said yet that it started.
    """
    if not run.world.published:
        return
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    with contextlib.suppress(LogUnavailable):  # `error` is what a person has to know
        _publish_end(run, "failed", reason, wall_s, test_accuracy=math.nan, test_loss=math.nan)


def _publish_end(run: Run, status: str, reason: str, wall_s: float, *, test_accuracy: float, test_loss: float) -> None:
    """The run's last fact, and wait until the log has it."""
    seeds = run.kasmina.summary()
    run.recorder.publish(
        RunFinished(
            status=status,
            reason=reason,
            test_accuracy=test_accuracy,
            test_loss=test_loss,
            params_final=run.params,
            flops=run.flops.total,
            side_pass_flops=run.flops.spent["side_pass"],
            probe_flops=run.flops.spent["probe"],
            germinated=seeds["germinated"],
            fossilized=seeds["fossilized"],
            culled=seeds["culled"],
            telemetry_shed=run.outside.log.shed(),
            wall_s=wall_s,
        )
    )
    run.outside.log.flush()
