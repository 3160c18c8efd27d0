"""Where a run goes on as another one: `begin_fork`, for a fork that begins now and for one that is on record."""

from __future__ import annotations

from dataclasses import replace

import torch

import esper
from contracts.leyline.v1.event_pb2 import RunStarted
from contracts.leyline.v1.leyline_pb2 import COMMAND_TYPE_SEED, AdaptationCommand, CommandSeedOperation
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.tolaria.commands import apply_command, carry_out
from esper.tolaria.config import RunConfig
from esper.tolaria.fork_change import Change, ForkPlace
from esper.tolaria.run import Run
from esper.tolaria.session import library_versions
from esper.tolaria.world import NewFork, RecordedFork

PRODUCER = "fork"


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
    for request in fork.commands:
        apply_command(run, request)


def _begin_new(run: Run, new: NewFork) -> None:
    """Publish the fork's RunStarted, apply its one change, and wait until the log has both."""
    fork, shared = new.fork, new.shared
    policy = fork.change.policy or run.config.policy
    run.config = replace(run.config, policy=policy, control_of="")
    run.recorder.run_id = fork.run_id
    body = RunStarted.FromString(fork.parent.SerializeToString())
    body.MergeFrom(
        RunStarted(
            config_json=run.config.to_json(),
            policy=policy,
            esper_version=esper.__version__,
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            threads=torch.get_num_threads(),
            parent_run_id=shared.run_id,
            parent_sequence=shared.sequence,
            fork_change=fork.change.text,
        )
    )
    body.ClearField("control_of")
    for name, version in library_versions().items():
        body.library_versions[name] = version
    del body.inherited[:]
    body.inherited.extend(run.kasmina.observations())
    started = run.recorder.publish(body, causation_id=shared.event_id)
    if fork.change.operation:
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
        command_type=COMMAND_TYPE_SEED,
        target_seed_id=change.seed_id,
        issued_by=PRODUCER,
        seed_operation=CommandSeedOperation(operation=change.operation, blueprint_id=change.blueprint_id),
    )
    body.issued_at.FromNanoseconds(now_ns)
    return new_event(
        body,
        event_id=command_id,
        run_id=run.recorder.run_id,
        producer=PRODUCER,
        recorded_at_ns=now_ns,
        causation_id=packet_id or started.event_id,
        correlation_id=packet_id,
        incarnation=run.world.incarnation,
        timeline=run.recorder.timeline,
        global_step=run.recorder.step,
        epoch=run.recorder.epoch,
    )
