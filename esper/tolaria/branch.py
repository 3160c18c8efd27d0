"""Where a run goes on as another one: a fork that begins here, or one on record that is followed."""

from __future__ import annotations

from dataclasses import replace

import torch

import esper
from contracts.leyline.v1.event_pb2 import RunStarted
from contracts.leyline.v1.leyline_pb2 import COMMAND_TYPE_SEED, AdaptationCommand, CommandSeedOperation
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.tolaria.commands import carry_out, follow_commands
from esper.tolaria.config import RunConfig
from esper.tolaria.forking import Change, Fork, Where
from esper.tolaria.run import Run
from esper.tolaria.versions import library_versions

PRODUCER = "fork"


def branch(run: Run, where: Where) -> bool:
    """Whether the run became another one at this place, one of those where a fork can part from its parent."""
    fact = run.past.here("run_started") if run.recorder.sequence else None
    if fact is not None:
        run.config = RunConfig.from_json(fact.run_started.config_json)
        run.recorder.run_id = fact.run_id
        run.recorder.publish(fact.run_started)
        follow_commands(run)
        return True
    fork = run.fork
    if fork is None or fork.where != where or run.recorder.step != fork.step or not run.past.exhausted:
        return False
    _begin(run, fork)
    return True


def _begin(run: Run, fork: Fork) -> None:
    """Be the child from here on: say so, and do the one thing that it does otherwise."""
    shared = run.past.last
    run.fork, run.past.more = None, False
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
        packet_id = shared.event_id if fork.where == "decision" else b""
        command = _command(run, fork.change, started, packet_id)
        run.log.publish(command)
        carry_out(run, command, None)
    run.log.flush()


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
        incarnation=run.recorder.incarnation,
        timeline=run.recorder.timeline,
        global_step=run.recorder.step,
        epoch=run.recorder.epoch,
    )
