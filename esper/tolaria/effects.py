"""After a change of the seeds: publish it, adapt the optimiser, publish a digest, wait for the log.

A change counts only when the log has it (ruling 1): `take_effect` returns then, and the next optimiser step comes after
that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.message import Message

from contracts.leyline.v1.event_pb2 import BreakerChanged, SeedTransitioned
from contracts.leyline.v1.leyline_pb2 import (
    CIRCUIT_BREAKER_STATE_OPEN,
    SEED_LIFECYCLE_STAGE_CULLED,
    SEED_LIFECYCLE_STAGE_GERMINATED,
    TELEMETRY_LEVEL_CRITICAL,
    TelemetryPacket,
)
from esper.leyline.envelope import priority_of
from esper.tolaria.optimizer import HOST
from esper.tolaria.run import Chain, Run, capture, publish_digest


def publish(run: Run, messages: Iterable[Message], chain: Chain | None = None) -> None:
    """Publish bodies in order; the cause of each is `chain`, or the chain of the seed that it is about.

    A breaker that opens puts the run into conservative mode, any other change of it takes the run out again.
    """
    for message in messages:
        link = chain or run.chains.get(getattr(message, "seed_id", ""))
        run.recorder.publish(
            message,
            causation_id=link.applied_id if link else b"",
            correlation_id=link.packet_id if link else b"",
            priority=priority_of(message),
        )
        if isinstance(message, BreakerChanged):
            opened = message.to_state == CIRCUIT_BREAKER_STATE_OPEN
            publish(run, run.mode.enter(message.breaker) if opened else run.mode.clear(message.breaker), chain)


def take_effect(run: Run, messages: Sequence[Message], chain: Chain | None = None) -> None:
    """Publish what happened to the seeds and all that follows from it, and wait until the log has it."""
    if not messages:
        return
    publish(run, messages, chain)
    transitions = [message for message in messages if isinstance(message, SeedTransitioned)]
    for transition in transitions:
        _seed_moved(run, transition)
    _follow_with_optimizer(run, chain)
    run.regroup()
    if transitions:
        run.flops.structure_changed()
        publish_digest(run, capture(run), "transition")
    run.world.flush()


def set_rates(run: Run) -> None:
    """Give the optimiser the rates of the coming step; publish those that were written from outside and put right."""
    undone = run.world.rates_undone(run.rates.begin_step(run.optimizer.groups, run.recorder.step))
    if undone:
        publish(run, undone)
        for change in undone:
            publish(run, run.rate_breaker.failed(f"learning rate of {change.group} was written from outside"))
        run.world.flush()


def drain(run: Run) -> None:
    """Publish Kasmina's telemetry; a critical event marks the windows of its seed."""
    for message in run.kasmina.drain_telemetry():
        publish(run, [message])
        if isinstance(message, TelemetryPacket) and message.level == TELEMETRY_LEVEL_CRITICAL:
            for event in message.events:
                run.windows.critical(event.attributes.get("seed_id", ""))


def _seed_moved(run: Run, transition: SeedTransitioned) -> None:
    run.windows.seed_moved(transition.seed_id, transition.to_stage)
    if transition.to_stage in (SEED_LIFECYCLE_STAGE_GERMINATED, SEED_LIFECYCLE_STAGE_CULLED):
        run.epochs_since_structural_change = 0


def _follow_with_optimizer(run: Run, chain: Chain | None) -> None:
    """Let the optimiser and the learning rates follow the seeds that may learn now."""
    before = set(run.optimizer.names)
    step = run.recorder.step
    factor = run.config.seed_rate_factor
    changes = run.optimizer.sync(run.kasmina.trainable(), run.kasmina.modules())
    for change in changes:
        if change.change == "group_removed":
            run.rates.remove(change.group)
            before.discard(change.group)
    publish(run, changes, chain)
    for name in run.optimizer.names:
        if name != HOST and name not in before:
            publish(run, run.rates.add(name, factor, step), chain)
