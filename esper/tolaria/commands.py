"""Commands: checked, applied between two steps, and answered by a fact whether they were applied or rejected.

What changed the seeds takes effect in `take_effect`: publish it, adapt the optimiser, publish a digest, wait for the
log. A change counts only when the log has it (ruling 1), and the next optimiser step comes after that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from google.protobuf.message import Message

from contracts.leyline.v1.event_pb2 import (
    BreakerChanged,
    CommandApplied,
    CommandRejected,
    KernelAttached,
    SecurityViolation,
    SeedTransitioned,
)
from contracts.leyline.v1.leyline_pb2 import (
    CIRCUIT_BREAKER_STATE_CLOSED,
    CIRCUIT_BREAKER_STATE_HALF_OPEN,
    CIRCUIT_BREAKER_STATE_OPEN,
    COMMAND_TYPE_CIRCUIT_BREAKER,
    COMMAND_TYPE_OPTIMIZER,
    COMMAND_TYPE_PAUSE,
    COMMAND_TYPE_ROLLBACK,
    COMMAND_TYPE_SEED,
    EMERGENCY_LEVEL_CONSERVATIVE,
    MESSAGE_PRIORITY_CRITICAL,
    SEED_LIFECYCLE_STAGE_CULLED,
    SEED_LIFECYCLE_STAGE_GERMINATED,
    SEED_OPERATION_CULL,
    SEED_OPERATION_GERMINATE,
    SEED_OPERATION_HOLD,
    TELEMETRY_LEVEL_CRITICAL,
    AdaptationCommand,
    EmergencySignal,
    TelemetryPacket,
)
from contracts.topics import COMMANDS
from esper.errors import InvalidInput
from esper.kasmina.commands import CommandRefused
from esper.kasmina.telemetry import MEMORY_DENIED
from esper.leyline import ids
from esper.leyline.envelope import Event, priority_of
from esper.tolaria import memory
from esper.tolaria.guard import ALARM, FALLS_BACK, TrainerBreaker
from esper.tolaria.kept import before_germination, pin, seed_ended
from esper.tolaria.optimizer import HOST
from esper.tolaria.run import Chain, Run
from esper.tolaria.run_state import capture, publish_digest, stop_at_target_step
from esper.tolaria.world import Request

TAMIYO: Final = "tamiyo"
"""Who has issued a policy's commands."""
PAUSE: Final = "pause"
"""Why a run is in conservative mode until the decision of the next epoch has been made."""


_HYPERPARAMETERS: Final = ("lr", "lr_factor", "rate", "weight_decay")
POLL_S: Final = 0.5
"""How long a trainer that was told to pause waits for a command before it looks whether it was stopped."""


def apply_arrived(run: Run) -> None:
    """Heed the emergencies and apply the commands that came since the last step.

    An answer among the commands comes too late and is rejected.
    """
    for heard in run.world.emergencies():
        changes = run.alarm_breaker.failed(heard.reason)
        publish(run, changes, Chain(heard.event_id, b""))
        if changes:
            run.world.flush()
    for request in run.world.commands():
        apply_command(run, request)


def stand_still(run: Run) -> tuple[str, str] | None:
    """Wait between two steps as long as a person has the run paused, and apply what comes meanwhile (ruling 35).

    Returns how the run ends where it is to end, as an interruption does. Ends early where a rollback is asked for.
    """
    while run.paused and run.rollback_asked is None:
        if (ending := run.world.ending()) is not None:
            return ending
        stop_at_target_step(run)
        run.world.await_command(POLL_S)
        apply_arrived(run)
    return None


ACTION_SET: Final = 1
"""The actions that a policy may choose from here: all of `esper.tamiyo.actions`."""


def apply_command(run: Run, request: Request, decision: Event | None = None) -> CommandRejected | None:
    """Apply a command, or reject it; `decision` is the decision that it follows from, if that was waited for.

    Returns the rejection, if it was one.
    Publishes CommandApplied and what follows from it, or CommandRejected. Raises Diverged where a command that was
    applied when this was recorded is refused now.
    """
    event = request.event
    if decision is None:
        publish(run, waited(run.security_breaker))
    if event is None or request.rejected is not None:
        _reject(run, request)
        return request.rejected
    rejected = None
    try:
        if not request.settled:
            _check(run, event, decision)
        carry_out(run, event, decision)
        if decision is None and run.security_breaker.state == CIRCUIT_BREAKER_STATE_HALF_OPEN:
            publish(run, run.security_breaker.succeeded())
    except CommandRefused as refusal:
        rejected = run.world.refused(event, refusal)
        _reject(run, Request(event, rejected))
        if "told" in event.adaptation_command.annotations:
            run.world.flush()  # whoever told it waits for the answer
    drain(run)
    return rejected


def carry_out(run: Run, event: Event, decision: Event | None) -> None:
    """Apply a command that may be believed, publish that and all that follows; CommandRefused changes nothing."""
    command = event.adaptation_command
    blueprint_id, params = _blueprint(run, command), run.params
    started = run.clock.monotonic()
    if command.command_type == COMMAND_TYPE_SEED:
        publish(run, waited(run.kernel_breaker))
    to_be_proven = run.config.seeds.swift and command.seed_operation.operation == SEED_OPERATION_GERMINATE
    before = before_germination(run) if to_be_proven else None
    facts = run.kasmina.apply(command) if command.command_type == COMMAND_TYPE_SEED else _apply_other(run, command)
    if to_be_proven:
        pin(run, command.target_seed_id, before)
    chain = _applied(run, event, decision, 1e3 * (run.clock.monotonic() - started))
    if command.command_type == COMMAND_TYPE_SEED:
        run.chains[command.target_seed_id] = chain
        _watch(run, command, decision, blueprint_id=blueprint_id, parameters_added=run.params - params)
    take_effect(run, facts, chain)
    _judge_kernels(run, facts)
    if "told" in command.annotations and not facts:
        run.world.flush()  # a hold or a pause has no fact but that it was applied, and holds only once the log has it


def waited(breaker: TrainerBreaker) -> list[BreakerChanged]:
    """What the time that has passed makes of a breaker; one that is closed is not asked."""
    return [] if breaker.state == CIRCUIT_BREAKER_STATE_CLOSED else breaker.poll()


def _judge_kernels(run: Run, facts: Sequence[Message]) -> None:
    """A kernel of the library that a seed could not use is a failure of loading them; one that it uses, a success."""
    for fact in facts:
        if not isinstance(fact, KernelAttached):
            continue
        if fact.trouble:
            publish(run, run.kernel_breaker.failed(fact.trouble))
        elif fact.artifact_ref and run.kernel_breaker.state == CIRCUIT_BREAKER_STATE_HALF_OPEN:
            publish(run, run.kernel_breaker.succeeded())


def _check(run: Run, event: Event, decision: Event | None) -> None:
    """Raise CommandRefused for what must not be applied now, whatever it is."""
    command = event.adaptation_command
    if event.run_id != run.recorder.run_id:
        raise CommandRefused("wrong_run", f"the command is for run {event.run_id}", critical=True)
    if decision is None and event.correlation_id:
        raise CommandRefused("late", "the epoch that this answers went on without it")
    closes = command.command_type == COMMAND_TYPE_CIRCUIT_BREAKER
    if decision is None and not closes and not run.security_breaker.allows:
        raise CommandRefused(
            "security_breaker", "no command is taken for 30 s: a live key has signed what no honest holder sends"
        )
    grows = command.command_type == COMMAND_TYPE_SEED and command.seed_operation.operation not in _NEVER_GROWS
    if run.mode.on and grows:
        raise CommandRefused("conservative_mode", "nothing grows or fossilizes in conservative mode; a cull is allowed")
    if command.command_type == COMMAND_TYPE_SEED:
        memory.check(run, command)
    if command.command_type == COMMAND_TYPE_OPTIMIZER:
        _check_rate(run, command)
    if command.command_type == COMMAND_TYPE_PAUSE and not _resumes(command):
        _check_quota(run, command)


_NEVER_GROWS: Final = (SEED_OPERATION_CULL, SEED_OPERATION_HOLD)


def _check_rate(run: Run, command: AdaptationCommand) -> None:
    """Raise CommandRefused for a learning rate beyond the limits of the configuration (R-TAM-19)."""
    config, values = run.config, command.optimizer_adjustment.hyperparameters
    group = command.optimizer_adjustment.optimizer_id or HOST
    shares = {name: values[name] for name in ("rate", "lr_factor") if name in values}
    if "lr" in values and group in run.optimizer.names:
        shares["lr"] = values["lr"] / run.rates.untold(group, run.recorder.step)
    for name, share in shares.items():
        if (
            math.isfinite(share)
            and share > 0
            and not config.lowest_rate_share * _NEARLY <= share <= config.highest_rate_share / _NEARLY
        ):
            raise CommandRefused(
                "rate_out_of_bounds",
                f"{name}={values[name]:g} makes {share:g} times of the rate; {config.lowest_rate_share:g} to "
                f"{config.highest_rate_share:g} times are allowed (lowest_rate_share, highest_rate_share)",
            )


_NEARLY: Final = 1.0 - 1e-6
"""A command's numbers are 32-bit floats."""


def _check_quota(run: Run, command: AdaptationCommand) -> None:
    """Refuse a pause, alarmed, where that master of the run has had its quota of this epoch.

    The trainer alone counts, between two steps, so two that ask at once never both get the last one (R-TAM-44).
    """
    role = _role(command)
    if run.pauses.get(role, 0) >= run.config.pause_quota:
        detail = f"{role} has paused {run.config.pause_quota} times in this epoch, which is all it may (pause_quota)"
        signal = EmergencySignal(
            version=1,
            level=EMERGENCY_LEVEL_CONSERVATIVE,
            reason=f"pause quota exhausted: {detail}",
            origin="tolaria",
            run_id=run.recorder.run_id,
        )
        signal.triggered_at.FromNanoseconds(run.clock.wall_ns())
        run.recorder.publish(signal, priority=MESSAGE_PRIORITY_CRITICAL)
        raise CommandRefused("pause_quota", detail)


def _role(command: AdaptationCommand) -> str:
    return TAMIYO if command.issued_by == TAMIYO else "person"


def _count_pause(run: Run, command: AdaptationCommand) -> None:
    run.pauses[_role(command)] = run.pauses.get(_role(command), 0) + 1


def _resumes(command: AdaptationCommand) -> bool:
    return command.HasField("training") and not command.training.paused


def _apply_other(run: Run, command: AdaptationCommand) -> list[Message]:
    """Carry out a command that is not about a seed; raises CommandRefused for what does not exist here."""
    if command.command_type == COMMAND_TYPE_ROLLBACK:
        run.rollback_asked = command
        return []
    if command.command_type == COMMAND_TYPE_OPTIMIZER:
        return _adjust_optimizer(run, command)
    if command.command_type == COMMAND_TYPE_PAUSE and command.HasField("training"):
        _pause_or_resume(run, paused=command.training.paused)
        if command.training.paused:
            _count_pause(run, command)
        return []
    if command.command_type == COMMAND_TYPE_PAUSE:
        _count_pause(run, command)
        run.paused_until = run.recorder.epoch + 1
        return list(run.mode.enter(PAUSE))
    if command.command_type == COMMAND_TYPE_CIRCUIT_BREAKER:
        return _force_breaker(run, command)
    raise CommandRefused("unsupported_command", f"command type {command.command_type} does nothing here")


def _pause_or_resume(run: Run, *, paused: bool) -> None:
    if paused == run.paused:
        raise CommandRefused(
            "already_paused" if paused else "not_paused",
            "the run is paused already" if paused else "the run is not paused: there is nothing to resume",
        )
    run.paused = paused


def _adjust_optimizer(run: Run, command: AdaptationCommand) -> list[Message]:
    """Set the learning rate (`lr`) or `weight_decay` of one group; one value that does not fit refuses them all.

    `lr_factor` lowers the rate to that share of the configured one, and leaves a rate that is lower as it is: said
    twice it does no more than said once. `rate` makes the rates of all groups, and of those to come, that share of what
    they would be had nobody told anything.
    """
    group = command.optimizer_adjustment.optimizer_id or "host"
    values = dict(command.optimizer_adjustment.hyperparameters)
    if group not in run.optimizer.names:
        raise CommandRefused(
            "unknown_group", f"there is no group {group!r}; there are {', '.join(run.optimizer.names)}"
        )
    for name, value in values.items():
        if (
            name not in _HYPERPARAMETERS
            or not math.isfinite(value)
            or value < 0
            or (name != "weight_decay" and not value)
        ):
            raise CommandRefused(
                "bad_hyperparameter", f"{name}={value} cannot be set; {', '.join(_HYPERPARAMETERS)} can"
            )
    facts: list[Message] = []
    for name, value in values.items():
        if name == "lr":
            facts.append(run.rates.set_base(group, value, f"command of {command.issued_by}", run.recorder.step))
        elif name == "lr_factor":
            facts += run.rates.limit(group, value, f"command of {command.issued_by}", run.recorder.step)
        elif name == "rate":
            facts += run.rates.tell(value, f"command of {command.issued_by}", run.recorder.step)
        else:
            facts.append(run.optimizer.set_hyperparameter(group, name, value))
    return facts


def _force_breaker(run: Run, command: AdaptationCommand) -> list[Message]:
    breakers, payload = run.breakers, command.circuit_breaker
    name = command.annotations.get("breaker", "")
    if name not in breakers:
        raise CommandRefused("unknown_breaker", f"annotation breaker={name!r} names none of {', '.join(breakers)}")
    if name == ALARM and payload.desired_state == CIRCUIT_BREAKER_STATE_OPEN:
        raise CommandRefused("bad_breaker_state", "an emergency signal opens the emergency breaker, no command does")
    try:
        return list(breakers[name].force(payload.desired_state, payload.rationale))
    except InvalidInput as error:
        raise CommandRefused("bad_breaker_state", str(error)) from None


def _applied(run: Run, event: Event, decision: Event | None, apply_ms: float) -> Chain:
    """Publish that a command was applied, and return the chain that its consequences belong to."""
    command = event.adaptation_command
    operation = command.seed_operation
    applied = run.recorder.publish(
        CommandApplied(
            command_id=ids.from_text(command.command_id),
            decision_id=decision.event_id if decision is not None else b"",
            command_type=command.command_type,
            operation=operation.operation,
            seed_id=command.target_seed_id,
            blueprint_id=operation.blueprint_id,
            parameters=operation.parameters,
            apply_ms=apply_ms,
            origin=command.issued_by,
            told=command.annotations.get("told", ""),
            paused=command.training.paused if command.HasField("training") else None,
        ),
        causation_id=event.event_id,
        correlation_id=event.correlation_id,
    )
    return Chain(applied.event_id, event.correlation_id)


def _blueprint(run: Run, command: AdaptationCommand) -> str:
    """The blueprint that a seed command names, or the one that grows there where it names none (a cull)."""
    growing = {seed.seed_id: seed.blueprint_id for seed in run.kasmina.observations()}
    return command.seed_operation.blueprint_id or growing.get(command.target_seed_id, "")


def _watch(
    run: Run,
    command: AdaptationCommand,
    decision: Event | None,
    *,
    blueprint_id: str,
    parameters_added: int,
) -> None:
    """Open the window of a seed command that was just applied."""
    run.windows.open(
        command_id=ids.from_text(command.command_id),
        decision_id=decision.event_id if decision is not None else b"",
        seed_id=command.target_seed_id,
        blueprint_id=blueprint_id,
        policy_version=decision.decision_made.policy_version if decision is not None else "",
        epoch=run.recorder.epoch,
        loss=run.probe_losses[-1] if run.probe_losses else math.nan,
        parameters_added=parameters_added,
    )


def _reject(run: Run, request: Request) -> None:
    """Publish the rejection; a critical one is a security event too."""
    body, event = request.rejected, request.event
    if body is None:
        return
    run.recorder.publish(
        body,
        causation_id=event.event_id if event is not None else b"",
        correlation_id=event.correlation_id if event is not None else b"",
    )
    if body.critical and not request.settled:
        violation = SecurityViolation(
            reason=body.reason, topic=COMMANDS.name, detail=body.detail, subject_id=body.command_id
        )
        run.recorder.publish(violation, priority=MESSAGE_PRIORITY_CRITICAL)
    if body.critical and body.reason in _OF_A_HOLDER:
        publish(run, run.security_breaker.failed(f"{body.reason}, signed by a live key"))


_OF_A_HOLDER: Final = ("nonce_replayed", "issued_in_future", "malformed", "missing_timestamp", "wrong_run")
"""Rejections of what a live key has signed, which no delay explains. Whoever has no key of ours can cause none of them,
and so open no breaker (ruling 39)."""


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
            if message.breaker in FALLS_BACK:
                continue
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
    follow_with_optimizer(run, lambda changes: publish(run, changes, chain))
    run.regroup()
    if transitions:
        run.structure_changed()
        publish_digest(run, capture(run), "transition")
    run.world.flush()


def set_rates(run: Run) -> None:
    """Give the optimiser the rates of the coming step; publish those that were written from outside and put right."""
    rates = run.rates
    if rates.steady:
        return
    undone = run.world.rates_undone(rates.begin_step(run.optimizer.groups, run.recorder.step))
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
                if event.event_id == MEMORY_DENIED:
                    publish(run, run.memory_breaker.failed(event.attributes.get("reason", "")))


def _seed_moved(run: Run, transition: SeedTransitioned) -> None:
    run.windows.seed_moved(transition.seed_id, transition.to_stage)
    seed_ended(run, transition)
    if transition.to_stage in (SEED_LIFECYCLE_STAGE_GERMINATED, SEED_LIFECYCLE_STAGE_CULLED):
        run.epochs_since_structural_change = 0


def follow_with_optimizer(run: Run, tell: Callable[[Sequence[Message]], None]) -> None:
    """Let the optimiser and the learning rates follow the seeds that may learn now; the changes go to `tell`."""
    absorbed = run.optimizer.absorb(run.kasmina.drain_absorbed())
    before = set(run.optimizer.names)
    step = run.recorder.step
    factor = run.config.seed_rate_factor
    changes = run.optimizer.sync(run.kasmina.trainable(), run.kasmina.modules())
    for change in changes:
        if change.change == "group_removed":
            run.rates.remove(change.group)
            before.discard(change.group)
    tell([*absorbed, *changes])
    for name in run.optimizer.names:
        if name != HOST and name not in before:
            tell(run.rates.add(name, factor, step))
