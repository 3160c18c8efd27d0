"""A run's beginning and its end: its first facts or the checkpoint that it goes on from; its result and last fact.

`begin_fork` is where a run goes on as another one, for a fork that begins now and for one that is on record.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, cast

import numpy as np

from contracts.leyline.v1.event_pb2 import MetricValue, RunFinished, RunStarted
from contracts.leyline.v1.leyline_pb2 import (
    CIRCUIT_BREAKER_STATE_OPEN,
    COMMAND_TYPE_OPTIMIZER,
    COMMAND_TYPE_SEED,
    AdaptationCommand,
    CircuitBreakerState,
)
from esper.errors import Interrupted, InvalidInput, LogUnavailable
from esper.kasmina.lifecycle import name as stage_name
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.metric import Figure
from esper.tolaria.commands import PAUSE, apply_command, carry_out
from esper.tolaria.config import RunConfig
from esper.tolaria.fork_change import Change, ForkPlace, order_of
from esper.tolaria.guard import FALLS_BACK, ISOLATION
from esper.tolaria.kept import keep, save_checkpoint
from esper.tolaria.kernels import likely
from esper.tolaria.machine import this_machine
from esper.tolaria.run import Run
from esper.tolaria.run_state import capture, publish_digest, restore, spent_by
from esper.tolaria.state import digest, flatten
from esper.tolaria.tasks.task import Evaluation
from esper.tolaria.world import NewFork, RecordedFork, StartingPoint


def begin(run: Run) -> None:
    """Bring the run to where it begins, its first step or a checkpoint; ask for the kernels that it may need."""
    if run.world.start is None:
        publish_start(run)
    else:
        _begin_at_checkpoint(run, run.world.start)
    if run.outside.library is not None and run.config.policy != "none":
        run.outside.library.want(likely(run.sites))


def _begin_at_checkpoint(run: Run, start: StartingPoint) -> None:
    """Restore the state of a checkpoint and all else that was so at its place in the run."""
    # A claim that follows it at once is part of its place, as it is for whoever comes there step by step.
    where = replace(start.snapshot.position, sequence=run.world.sequence)
    snapshot, before = replace(start.snapshot, position=where), start.before
    restore(run, snapshot.flat)
    flat = capture(run)
    run.world.compare_start(digest(flat), flat)
    run.recorder.timeline, run.recorder.step, run.recorder.epoch = where.timeline, where.step, where.epoch
    run.flops.spent |= spent_by(snapshot.flat)
    run.checkpoints = [checkpoint for checkpoint in start.checkpoints if checkpoint.position.sequence < where.sequence]
    for breaker in run.breakers.values():
        if breaker.name in before.run_status.breakers:
            breaker.force(cast("CircuitBreakerState", before.run_status.breakers[breaker.name]), "as it was left")
    for name, state in before.run_status.breakers.items():
        if state == CIRCUIT_BREAKER_STATE_OPEN:
            if name not in FALLS_BACK:
                run.mode.enter(name)
            if name.startswith(ISOLATION):
                run.kasmina.reopen(name.removeprefix(ISOLATION))
    if run.paused_until > where.epoch:
        run.mode.enter(PAUSE)
    run.paused = before.run_status.paused
    run.snapshots.add(snapshot)
    run.world.remember(snapshot)
    save_checkpoint(run, snapshot, start.reason)
    run.world.flush()


def publish_start(run: Run) -> None:
    """Publish RunStarted, the digest of step 0 and its checkpoint, and wait until the log has them."""
    config = run.config
    machine = this_machine(str(run.device), run.outside.process)
    for content in run.work.source_code():
        run.world.put(content)
    body = run.work.started(run.host)
    body.MergeFrom(
        RunStarted(
            config_json=config.to_json(),
            esper_version=machine.esper_version,
            library_versions=machine.library_versions,
            cpu_capability=machine.cpu_capability,
            threads=machine.threads,
            seeds=run.random.seeds,
            weights_digest=digest(flatten(run.host.state_dict())).root,
            device=str(run.device),
            params_host=run.params_host,
            epochs=run.epochs,
            steps_per_epoch=run.steps_per_epoch,
            policy=config.policy,
            sites=run.sites,
            control_of=config.control_of,
            lifecycle=config.seeds.lifecycle,
            machine=machine,
            inherited=run.kasmina.observations() if config.structure and run.own_streams else (),
        )
    )
    run.recorder.publish(body)
    flat = capture(run)
    save_checkpoint(run, keep(run, flat, publish_digest(run, flat, "start")), "epoch")
    run.world.flush()


# ------------------------------------------------------------------------------------------------------------- the end


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a run: the object that `esper run --json` prints.

    `val_accuracy`, `test_loss` and `metrics` are of the test set, which nothing else looks at; `metrics` has a name,
    unit, direction and value each, the main one first. `control_val_accuracy` is filled in by `esper run`, where a
    control ran beside it. `fates` has the last stage, blueprint and alpha of each slot that ever grew, and as `rewound`
    the blueprint whose proof failed there. `unproven` are the seeds that were mixed in at the end and had not proven
    themselves; the figures `_without` are of the network without them, None or empty where there are none. `flops`
    holds training, side_pass, probe and
    evidence.
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
    metrics: list[dict[str, Any]] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    val_accuracy_without: float | None = None
    test_loss_without: float | None = None
    metrics_without: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def finish(run: Run, status: str, reason: str, wall_s: float) -> RunResult:
    """Evaluate on the test set, publish RunFinished, wait until the log has it, and return the result."""
    test, without = run.work.test(run.host), None
    if unproven := run.kasmina.unproven():
        with run.kasmina.without_unproven():
            without = run.work.test(run.host)
    seeds = run.kasmina.summary()
    _publish_end(run, status, reason, wall_s, test=test, without=without)
    return RunResult(
        run_id=run.recorder.run_id,
        status=status,
        reason=reason,
        task=run.work.name,
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
        fates=_fates(run),
        metrics=[figure.to_dict() for figure in test.figures],
        unproven=unproven,
        val_accuracy_without=None if without is None else without.accuracy,
        test_loss_without=None if without is None else without.loss.mean,
        metrics_without=[] if without is None else [figure.to_dict() for figure in without.figures],
    )


def told(figures: Sequence[Figure]) -> list[MetricValue]:
    """Values of metrics as events hold them."""
    return [
        MetricValue(
            name=each.name,
            unit=each.unit,
            lower_is_better=each.lower_is_better,
            value=each.value,
            stderr=each.stderr,
        )
        for each in figures
    ]


def _fates(run: Run) -> dict[str, dict[str, Any]]:
    closed = run.kasmina.closed()
    return {
        seed.seed_id: {"stage": stage_name(seed.stage), "blueprint": seed.blueprint_id, "alpha": seed.alpha}
        | ({"rewound": closed[seed.seed_id]} if seed.closed else {})
        for seed in run.kasmina.observations()
        if seed.life or seed.closed
    }


def interrupt(run: Run, fault: str, wall_s: float) -> Interrupted:
    """Publish that the run was interrupted by a fault of the machine; the error that says so.

    It can be resumed, whether the log has that fact or not: with a full disk it may not.
    """
    if run.world.published:
        with contextlib.suppress(LogUnavailable, OSError):
            _publish_end(run, "interrupted", fault, wall_s)
    return Interrupted(f"run {run.recorder.run_id} was interrupted at step {run.recorder.step}: {fault}")


def abandon(run: Run, error: Exception, wall_s: float) -> None:
    """Publish that the run failed with `error`, which the caller raises on; a model that raised is not tested.

    Does nothing where this process has published nothing yet.
    """
    if not run.world.published:
        return
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    with contextlib.suppress(LogUnavailable):  # `error` is what a person has to know
        _publish_end(run, "failed", reason, wall_s)


def _publish_end(
    run: Run,
    status: str,
    reason: str,
    wall_s: float,
    *,
    test: Evaluation | None = None,
    without: Evaluation | None = None,
) -> None:
    """Publish the run's last fact, and wait until the log has it; without a test its figures are no numbers.

    `without` is the test without the seeds in doubt.
    """
    seeds = run.kasmina.summary()
    run.recorder.publish(
        RunFinished(
            status=status,
            reason=reason,
            test_accuracy=math.nan if test is None else test.accuracy,
            test_loss=math.nan if test is None else test.loss.mean,
            metrics=() if test is None else told(test.figures),
            unproven=run.kasmina.unproven(),
            test_accuracy_without=None if without is None else without.accuracy,
            test_loss_without=None if without is None else without.loss.mean,
            metrics_without=() if without is None else told(without.figures),
            params_final=run.params,
            flops=run.flops.total,
            side_pass_flops=run.flops.spent["side_pass"],
            probe_flops=run.flops.spent["probe"] + run.flops.spent["evidence"],
            germinated=seeds["germinated"],
            fossilized=seeds["fossilized"],
            culled=seeds["culled"],
            telemetry_shed=run.outside.log.shed(),
            wall_s=wall_s,
        )
    )
    run.world.flush()


def check_data(recorded: RunStarted, fingerprint: str) -> None:
    """Raise InvalidInput where samples with this fingerprint are not those that the run was trained on.

    A script reads its samples itself: it has no fingerprint beforehand, and nothing is compared.
    """
    if fingerprint and fingerprint != recorded.data_fingerprint:
        raise InvalidInput(f"the samples of task {recorded.task} are not those that the run was trained on")


FORK: Final = "fork"
"""The producer of a fork's own command."""


def begin_fork(run: Run, place: ForkPlace) -> bool:
    """Become the fork that begins at this step and place, if there is one; whether there was.

    The trainer calls this at the three places where a fork can leave its parent: before a step's commands, before an
    epoch's packet, and before the decision on it, which the fork's own command replaces.
    """
    match run.world.fork_at(place):
        case RecordedFork() as fork:
            _begin_recorded(run, fork)
        case NewFork() as fork:
            _begin_new(run, fork)
        case None:
            return False
    return True


def _begin_recorded(run: Run, fork: RecordedFork) -> None:
    """Take over the configuration and run id on record, and apply the fork's commands."""
    run.config = RunConfig.from_json(fork.started.run_started.config_json)
    run.recorder.run_id = fork.started.run_id
    run.recorder.publish(fork.started.run_started)
    run.random.reorder(order_of(fork.started.run_started.fork_change))
    for request in fork.commands:
        apply_command(run, request)


def _begin_new(run: Run, new: NewFork) -> None:
    """Publish the fork's RunStarted, apply its one change, and wait until the log has both."""
    fork, shared = new.fork, new.shared
    policy = fork.change.policy or run.config.policy
    run.config = replace(run.config, policy=policy, control_of="")
    run.recorder.run_id = fork.run_id
    machine = this_machine(str(run.device), run.outside.process)
    body = RunStarted.FromString(fork.parent.SerializeToString())
    for name in ("library_versions", "machine", "control_of", "inherited"):
        body.ClearField(name)
    body.MergeFrom(
        RunStarted(
            config_json=run.config.to_json(),
            policy=policy,
            esper_version=machine.esper_version,
            library_versions=machine.library_versions,
            cpu_capability=machine.cpu_capability,
            threads=machine.threads,
            device=machine.device,
            machine=machine,
            inherited=run.kasmina.observations(),
            parent_run_id=shared.run_id,
            parent_sequence=shared.sequence,
            fork_change=fork.change.text,
        )
    )
    started = run.recorder.publish(body, causation_id=shared.event_id)
    run.random.reorder(fork.change.order)
    if fork.change.commands:
        packet_id = shared.event_id if fork.place == "decision" else b""
        command = _command(run, fork.change, started, packet_id)
        run.outside.log.publish(command)
        carry_out(run, command, None)
    run.world.flush()


def _command(run: Run, change: Change, started: Event, packet_id: bytes) -> Event:
    """The fork's command as an event of its own, so that the chain of causes is whole and a replay finds it."""
    command_id = ids.derived_id(started.event_id, "fork.command")
    now_ns = run.clock.wall_ns()
    body = AdaptationCommand(
        version=1,
        command_id=ids.text(command_id),
        command_type=COMMAND_TYPE_SEED if change.operation else COMMAND_TYPE_OPTIMIZER,
        target_seed_id=change.seed_id,
        issued_by=FORK,
    )
    if change.operation:
        body.seed_operation.operation = change.operation
        body.seed_operation.blueprint_id = change.blueprint_id
        body.seed_operation.parameters.update({} if change.size == 1.0 else {"factor": change.size})
    else:
        body.optimizer_adjustment.optimizer_id = "host"
        body.optimizer_adjustment.hyperparameters["rate"] = change.rate
    body.issued_at.FromNanoseconds(now_ns)
    return new_event(
        body,
        event_id=command_id,
        run_id=run.recorder.run_id,
        producer=FORK,
        recorded_at_ns=now_ns,
        causation_id=packet_id or started.event_id,
        correlation_id=packet_id,
        incarnation=run.world.incarnation,
        timeline=run.recorder.timeline,
        global_step=run.recorder.step,
        epoch=run.recorder.epoch,
    )
