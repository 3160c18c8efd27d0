"""The end of an epoch, always in this order: probe and gates, packet, decision, command, keeping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from contracts.leyline.v1.event_pb2 import DecisionTimedOut, SiteEvidence
from esper.kasmina.probe import Loss
from esper.leyline.envelope import Event, parse
from esper.tolaria.commands import PAUSE, apply_command
from esper.tolaria.effects import drain, publish, take_effect
from esper.tolaria.evaluation import Evaluation, evaluate
from esper.tolaria.fork import begin_fork
from esper.tolaria.outside import Answer
from esper.tolaria.packet import Trained, epoch_packet
from esper.tolaria.recovery import CAUTION, keep, save_checkpoint
from esper.tolaria.run import Run
from esper.tolaria.run_state import capture, publish_digest
from esper.tolaria.telemetry import report_epoch

EVIDENCE_SAMPLES: Final = 256


def finish_epoch(run: Run, trained: Trained) -> None:
    """Do all that lies between the last step of an epoch and the first of the next; `recorder.epoch` counts it."""
    last = run.recorder.epoch == run.epochs
    evaluation = _probe_and_gates(run)
    run.windows.epoch_ended(evaluation.loss.mean, run.hook_ms[-1] if run.hook_ms else 0.0)
    if last:
        run.windows.end_all("run_ended")
    begin_fork(run, "packet")
    evidence = _gather_evidence(run)
    _decide(run, trained, evaluation, evidence)
    _look_at_breakers(run)
    if run.outside.verifier is not None:
        run.outside.verifier.expire(now_ns=run.clock.wall_ns())
    flat = capture(run)
    snapshot = keep(run, flat, publish_digest(run, flat, "epoch"))
    if last or run.recorder.epoch % run.config.checkpoint_every_epochs == 0:
        save_checkpoint(run, snapshot, "final" if last else "epoch")
    report_epoch(run, trained, evaluation)
    run.outside.log.flush()


def _probe_and_gates(run: Run) -> Evaluation:
    """Let Kasmina judge its seeds on the probe set; returns the evaluation of the network as it stands afterwards."""
    seen: list[Evaluation] = []

    def probe() -> Loss:
        with run.flops.counted("probe", "probe", len(run.task.probe)):
            seen.append(evaluate(run.host, run.task, run.task.probe))
        return seen[-1].loss

    take_effect(run, run.kasmina.end_epoch(probe))
    drain(run)
    # Kasmina also probes with single seeds switched off; its own probe_loss is of the network as it stands.
    evaluation = next(each for each in seen if each.loss is run.kasmina.probe_loss)
    run.probe_losses.append(evaluation.loss.mean)
    run.epochs_since_structural_change += 1
    return evaluation


def _gather_evidence(run: Run) -> list[SiteEvidence]:
    """One probe batch's word on every site; nobody asks for it where nothing can be decided."""
    if run.config.policy == "none":
        return []
    count = min(EVIDENCE_SAMPLES, len(run.task.probe))
    chosen = run.task.probe.take(torch.randperm(len(run.task.probe), generator=run.random.probe)[:count])
    with run.flops.counted("probe", "evidence", count):
        return run.kasmina.evidence(chosen.inputs, chosen.targets, run.task.loss)


def _decide(run: Run, trained: Trained, evaluation: Evaluation, evidence: Sequence[SiteEvidence]) -> None:
    """The epoch hook: publish the packet, wait for the decision, apply its command; the log has it all afterwards."""
    started = run.clock.monotonic()
    publish(run, run.decider_breaker.poll())
    packet_id = run.recorder.new_id()
    body = epoch_packet(run, packet_id, trained, evaluation, evidence)
    packet = run.recorder.publish(body, event_id=packet_id, correlation_id=packet_id)
    assembled = run.clock.monotonic()
    answer = None if begin_fork(run, "decision") else _await_answer(run, packet)
    decided = run.clock.monotonic()
    if answer is not None and answer.command is not None:
        # A command is as old as the packet that it answers, and a run that was resumed did not age meanwhile.
        now_ns = packet.recorded_at_ns + round(1e9 * (decided - assembled))
        for request in run.world.command_of(answer, now_ns):
            apply_command(run, request, parse(answer.decision.payload))
    applied = run.clock.monotonic()
    run.outside.log.flush()
    acknowledged = run.clock.monotonic()
    run.hook_ms.append(run.world.hook_ms(1e3 * (acknowledged - started)))
    run.hook_parts_ms = {
        "assembly": 1e3 * (assembled - started),
        "decision": 1e3 * (decided - assembled),
        "command": 1e3 * (applied - decided),
        "acknowledgement": 1e3 * (acknowledged - applied),
    }


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
        publish(run, breaker.failed(f"no decision within {timeout_s} s"))
    else:
        publish(run, breaker.succeeded())
    return answer


def _look_at_breakers(run: Run) -> None:
    """A completed epoch is a success of the learning rates, and the end of the caution that follows a rollback.

    A pause ends with the epoch after the one in which it was commanded.
    """
    publish(run, run.rate_breaker.succeeded())
    run.failures_in_a_row = 0
    publish(run, run.mode.clear(CAUTION))
    if run.recorder.epoch >= run.paused_until:
        publish(run, run.mode.clear(PAUSE))
