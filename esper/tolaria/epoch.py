"""The end of an epoch, always in this order: probe and gates, packet, decision, command, digest, checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from contracts.leyline.v1.event_pb2 import (
    DecisionTimedOut,
    EpochCompleted,
    LastDecision,
    RiskMemory,
    SeedObservation,
    SiteEvidence,
    StepSampled,
)
from contracts.leyline.v1.leyline_pb2 import (
    CIRCUIT_BREAKER_STATE_CLOSED,
    CIRCUIT_BREAKER_STATE_HALF_OPEN,
    COMMAND_TYPE_SEED,
    COMMAND_TYPE_UNKNOWN,
    SEED_LIFECYCLE_STAGE_DORMANT,
    TELEMETRY_LEVEL_INFO,
    TELEMETRY_LEVEL_WARNING,
    HardwareContext,
    MetricPoint,
    SeedState,
    SystemStatePacket,
    TelemetryEvent,
    TelemetryPacket,
)
from esper.kasmina.gates import Loss
from esper.leyline import ids
from esper.leyline.envelope import Event, parse, priority_of
from esper.tamiyo import normalizer
from esper.tolaria.commands import ACTION_SET, PAUSE, apply_command, drain, publish, take_effect
from esper.tolaria.kept import keep, save_checkpoint
from esper.tolaria.learning_rate import decay_from_epoch
from esper.tolaria.measuring import tries_candidates
from esper.tolaria.memory import relieve
from esper.tolaria.outside import Answer
from esper.tolaria.rollback import CAUTION, rewind
from esper.tolaria.run import Run
from esper.tolaria.run_state import capture, publish_digest
from esper.tolaria.session import begin_fork, told
from esper.tolaria.tasks.task import Evaluation

LOSS_HISTORY: Final = 64
_GIB: Final = 1024**3


def finish_epoch(run: Run, trained: Trained) -> None:
    """Do all that lies between the last step of an epoch and the first of the next; `recorder.epoch` is its number."""
    last = run.recorder.epoch == run.epochs
    run.mid_epoch = False
    evaluation = _probe_and_gates(run, last=last)
    if run.kasmina.disproved:
        _look_at_breakers(run)
    while run.kasmina.disproved:
        if rewind(run, run.kasmina.disproved):
            return
        if run.config.seeds.rules == 1:
            break
        evaluation = _probe_and_gates(run, last=last, again=True)
    run.windows.epoch_ended(evaluation.loss.mean, run.hook_ms[-1] if run.hook_ms else 0.0)
    if last:
        run.windows.end_all("run_ended")
    begin_fork(run, "packet")
    evidence = _gather_evidence(run)
    with run.outside.span("hook"):
        _decide(run, trained, evaluation, evidence)
    run.norms = normalizer.updated(
        run.norms,
        {"loss": evaluation.loss.mean, "gradient_norm": trained.gradient_norm, "training_loss": trained.loss},
    )
    _look_at_breakers(run)
    if run.outside.verifier is not None:
        run.outside.verifier.expire(now_ns=run.clock.wall_ns())
    with run.outside.span("state digested"):
        flat = capture(run)
        snapshot = keep(run, flat, publish_digest(run, flat, "epoch"))
    if last or run.recorder.epoch % run.config.checkpoint_every_epochs == 0:
        save_checkpoint(run, snapshot, "final" if last else "epoch")
    relieve(run)
    report_epoch(run, trained, evaluation)
    run.world.flush()


def _probe_and_gates(run: Run, *, last: bool, again: bool = False) -> Evaluation:
    """Let Kasmina judge its seeds on the probe set; returns the evaluation of the network as it stands afterwards.

    `again` is after a proof that failed and undid nothing: the epoch's other proofs are judged still.
    """
    seen: list[Evaluation] = []

    def probe() -> Loss:
        counted = run.flops.counted("probe", f"probe {run.kasmina.measured}", run.work.probe_samples)
        with run.outside.span("probe"), counted:
            seen.append(run.work.probe(run.host))
        return seen[-1].loss

    judge = run.kasmina.prove_others if again else run.kasmina.end_epoch
    with run.outside.span("gates"):
        take_effect(run, judge(probe, last=last))
        drain(run)
    # Kasmina also probes with single seeds switched off; its own probe_loss is of the network as it stands.
    evaluation = next(each for each in seen if each.loss is run.kasmina.probe_loss)
    if again:
        run.probe_losses[-1] = evaluation.loss.mean
        return evaluation
    run.probe_losses.append(evaluation.loss.mean)
    run.epochs_since_structural_change += 1
    return evaluation


def _gather_evidence(run: Run) -> list[SiteEvidence]:
    """Evidence on every site from one probe batch; none for the policy that decides nothing, or where nothing fits."""
    no_room = run.params - run.params_host >= run.params_budget
    if run.config.policy == "none" or (no_room and run.config.seeds.rules > 1):
        return []
    closure = run.work.evidence(run.host)
    counted = run.flops.counted("evidence", f"evidence {run.kasmina.measured}", run.work.evidence_samples)
    with run.outside.span("evidence"), counted:
        return run.kasmina.evidence(closure, candidates=tries_candidates(run.config))


def _decide(run: Run, trained: Trained, evaluation: Evaluation, evidence: Sequence[SiteEvidence]) -> None:
    """The epoch hook: publish the packet, wait for the decision, apply its command; the log has it all afterwards."""
    span = run.outside.span
    started, contended = run.clock.monotonic(), run.clock.contended()
    publish(run, run.decider_breaker.poll())
    for breaker in (run.alarm_breaker, run.security_breaker, run.memory_breaker):
        if breaker.state != CIRCUIT_BREAKER_STATE_CLOSED:
            publish(run, breaker.poll())
    packet_id = run.recorder.new_id()
    with span("packet built"):
        body = epoch_packet(run, packet_id, trained, evaluation, evidence)
    with span("packet published"):
        packet = run.recorder.publish(body, event_id=packet_id, correlation_id=packet_id)
    assembled = run.clock.monotonic()
    run.last_decision = None
    answer = None if begin_fork(run, "decision") else _await_answer(run, packet)
    decided = run.clock.monotonic()
    if answer is not None:
        decision = parse(answer.decision.payload)
        run.risk_memory = decision.decision_made.risk_memory.SerializeToString()
        rejected: dict[bytes, str] = {}
        # A command is as old as the packet that it answers, and a run that was resumed did not age meanwhile.
        now_ns = packet.recorded_at_ns + round(1e9 * (decided - assembled))
        with span("command applied"):
            for request in run.world.command_of(answer, now_ns):
                refusal = apply_command(run, request, decision)
                if refusal is not None:
                    rejected[refusal.command_id] = refusal.reason
        run.last_decision = _due(run, packet, decision, answer, rejected)
    applied = run.clock.monotonic()
    run.world.flush()
    acknowledged = run.clock.monotonic()
    run.hook_ms.append(run.world.hook_ms(1e3 * (acknowledged - started)))
    run.hook_contended_ms = 1e3 * (run.clock.contended() - contended)
    run.hook_parts_ms = {
        "assembly": 1e3 * (assembled - started),
        "decision": 1e3 * (decided - assembled),
        "command": 1e3 * (applied - decided),
        "acknowledgement": 1e3 * (acknowledged - applied),
    }


def _due(
    run: Run, packet: Event, decision: Event, answer: Answer, rejected: Mapping[bytes, str]
) -> LastDecision | None:
    """What the next packet says of this decision, so that it is reported; None where a window watches its command."""
    made = decision.decision_made
    command = None if answer.command is None else parse(answer.command.payload).adaptation_command
    if command is not None and made.command_id not in rejected and command.command_type == COMMAND_TYPE_SEED:
        return None
    return LastDecision(
        packet_id=packet.event_id,
        decision_id=decision.event_id,
        command_id=made.command_id,
        outcome="nothing" if command is None else "rejected" if made.command_id in rejected else "applied",
        reason=rejected.get(made.command_id, ""),
        epoch=run.recorder.epoch,
        loss=run.probe_losses[-1],
        policy_version=made.policy_version,
        command_type=COMMAND_TYPE_UNKNOWN if command is None else command.command_type,
    )


def _await_answer(run: Run, packet: Event) -> Answer | None:
    """Tamiyo's answer; None for the policy that decides nothing, while its breaker is open, and after the timeout."""
    breaker = run.decider_breaker
    if run.config.policy == "none" or not breaker.allows:
        return None
    started = run.clock.monotonic()
    timeout_s = run.config.decision_timeout_s
    answer = run.world.answer(packet.event_id, timeout_s)
    if answer is None:
        waited_ms = 1e3 * (run.clock.monotonic() - started)
        run.decision_timeouts += 1
        run.recorder.publish(
            DecisionTimedOut(packet_id=packet.event_id, waited_ms=waited_ms),
            causation_id=packet.event_id,
            correlation_id=packet.event_id,
        )
        run.last_decision = LastDecision(
            packet_id=packet.event_id, outcome="timed_out", epoch=run.recorder.epoch, loss=run.probe_losses[-1]
        )
        _tell_of_timeout(run, waited_ms)
        publish(run, breaker.failed(f"no decision within {timeout_s} s"))
    else:
        publish(run, breaker.succeeded())
    return answer


def _tell_of_timeout(run: Run, waited_ms: float) -> None:
    """An event of high priority beside the fact, for those who watch (R-TAM-13)."""
    event = TelemetryEvent(
        event_id="tamiyo.timeout_inference",
        description=f"no decision within {waited_ms:.0f} ms; the run went on without one",
        level=TELEMETRY_LEVEL_WARNING,
    )
    packet = TelemetryPacket(
        packet_id=ids.text(run.recorder.new_id()),
        source_subsystem="tolaria",
        level=TELEMETRY_LEVEL_WARNING,
        events=[event],
    )
    packet.timestamp.FromNanoseconds(run.clock.wall_ns())
    run.recorder.publish(packet, priority=priority_of(packet))


def _look_at_breakers(run: Run) -> None:
    """A completed epoch is a success of the learning rates, and the end of the caution that follows a rollback.

    It is a trial of the breakers of emergencies and of memory, too.

    A pause ends with the epoch after the one in which it was commanded.
    """
    publish(run, run.rate_breaker.succeeded())
    for breaker in (run.alarm_breaker, run.memory_breaker):
        if breaker.state == CIRCUIT_BREAKER_STATE_HALF_OPEN:
            publish(run, breaker.succeeded())
    run.failures_in_a_row = 0
    run.pauses.clear()
    publish(run, run.mode.clear(CAUTION))
    if run.recorder.epoch >= run.paused_until:
        publish(run, run.mode.clear(PAUSE))


# ----------------------------------------------------------------------------------------------------------- the packet


@dataclass(frozen=True, slots=True)
class Trained:
    """The figures of an epoch's steps: mean training loss, last gradient norm, duration, samples."""

    loss: float
    gradient_norm: float
    duration_s: float
    samples: int
    gradient_variance: float = 0.0
    """Of the steps' gradient norms."""
    conflict_rate: float = 0.0
    """Of the pairs of microbatches, how many have gradients that point against each other."""


def epoch_packet(
    run: Run, packet_id: bytes, trained: Trained, evaluation: Evaluation, evidence: Sequence[SiteEvidence]
) -> EpochCompleted:
    """The state packet of the epoch that was just completed: everything that a policy may know.

    Windows that it reports as closed are forgotten.
    """
    observations = run.kasmina.observations()
    recorder = run.recorder
    state = SystemStatePacket(
        version=1,
        current_epoch=recorder.epoch,
        validation_accuracy=evaluation.accuracy,
        validation_loss=evaluation.loss.mean,
        timestamp_ns=run.clock.wall_ns(),
        hardware_context=hardware(run.device),
        training_metrics={
            "gradient_norm": trained.gradient_norm,
            "samples_per_s": trained.samples / max(trained.duration_s, 1e-9),
            "gradient_variance": trained.gradient_variance,
            "gradient_conflict_rate": trained.conflict_rate,
            "optimizer_lr": run.rates.rate("host", recorder.step),
        },
        seed_states=[_seed_state(run, seed) for seed in observations if seed.stage != SEED_LIFECYCLE_STAGE_DORMANT],
        packet_id=ids.text(packet_id),
        global_step=recorder.step,
        training_loss=trained.loss,
        source_subsystem="tolaria",
        training_run_id=recorder.run_id,
        experiment_name=run.work.name,
    )
    return EpochCompleted(
        state=state,
        seeds=observations,
        evidence=evidence,
        windows=run.windows.report(),
        probe_loss_history=run.probe_losses[-LOSS_HISTORY:],
        epochs_total=run.epochs,
        params=run.params,
        params_host=run.params_host,
        params_budget=run.params_budget,
        policy=run.config.policy,
        policy_seed=run.random.seeds["policy"],
        sites=run.sites,
        probe_loss_stderr=evaluation.loss.stderr,
        epochs_since_structural_change=run.epochs_since_structural_change,
        conservative=run.mode.on,
        duration_s=trained.duration_s,
        hook_ms_before=run.hook_ms[-1] if run.hook_ms else 0.0,
        hook_contended_ms_before=run.hook_contended_ms,
        flops=run.flops.total,
        lifecycle=run.config.seeds.lifecycle,
        rate_policy=run.config.rate_policy,
        decay_from_epoch=decay_from_epoch(
            run.config.rate_policy,
            epochs=run.epochs,
            steps_per_epoch=run.steps_per_epoch,
            decay_share=run.config.rate_decay_share,
        ),
        flops_training=run.flops.spent["training"],
        flops_measuring=run.flops.measuring,
        metrics=told(evaluation.figures),
        action_set=ACTION_SET,
        risk_memory=RiskMemory.FromString(run.risk_memory) if run.risk_memory else None,
        last_decision=run.last_decision,
        normalizer=normalizer.to_message(run.norms),
    )


def hardware(device: torch.device) -> HardwareContext:
    """The device that the run computes on; for a CPU with the memory that the system reports."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        major, minor = torch.cuda.get_device_capability(device)
        return HardwareContext(
            device_type="cuda",
            device_id=str(device.index or 0),
            total_memory_gb=total / _GIB,
            available_memory_gb=free / _GIB,
            compute_capability=10 * major + minor,
        )
    page = os.sysconf("SC_PAGE_SIZE")
    return HardwareContext(
        device_type="cpu",
        total_memory_gb=page * os.sysconf("SC_PHYS_PAGES") / _GIB,
        available_memory_gb=page * os.sysconf("SC_AVPHYS_PAGES") / _GIB,
    )


def _seed_state(run: Run, seed: SeedObservation) -> SeedState:
    groups = {name: float(group["lr"]) for name, group in zip(run.optimizer.names, run.optimizer.groups, strict=True)}
    depths = {site.seed_id: site.depth for site in run.sites}
    return SeedState(
        seed_id=seed.seed_id,
        stage=seed.stage,
        gradient_norm=seed.gradient_norm,
        learning_rate=groups.get(seed.seed_id, 0.0),
        layer_depth=depths[seed.seed_id],
        age_epochs=seed.stage_age_epochs,
    )


# --------------------------------------------------------------------------------------- telemetry, all of it sheddable


def sample_step(run: Run, loss: float, gradient_norm: float, step_s: float) -> None:
    """Publish loss, gradient norm and speed of one step."""
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
