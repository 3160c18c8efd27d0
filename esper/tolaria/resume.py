"""A recorded run that goes on in a new process: as the same run (`resume_run`), or as another one (`fork_run`).

Both begin at a checkpoint, follow the record from there, and are live after its last fact.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Final

import torch

from contracts.leyline.v1.event_pb2 import RunResumed, Script
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.leyline.signing import Signed
from esper.leyline.verifier import CommandVerifier
from esper.record import Recorded
from esper.tolaria.config import RunConfig
from esper.tolaria.divergence import Diverged
from esper.tolaria.fork_change import Change, Fork, place_of
from esper.tolaria.machine import differences, this_machine
from esper.tolaria.outside import ClaimableLog, Clock, Outside
from esper.tolaria.replay import first_checkpoint, latest_checkpoint, recorded_world
from esper.tolaria.session import RunResult, check_data
from esper.tolaria.train import Trainable, train
from esper.tolaria.world import PRODUCER, LiveWorld

_EVER: Final = 2**62


def resume_run(
    recorded: Recorded,
    task: Trainable,
    outside: Outside,
    log: ClaimableLog,
    verifier: CommandVerifier,
    *,
    script: Script | None = None,
) -> RunResult:
    """Follow the run's record from the last checkpoint on, claim the run where that ends, and be live.

    `log` and `verifier` are those of `outside`. `script` are the files that `task` is from, where those are not the
    ones on record.

    A run that halted goes on from before what it halted over: from the state that its rollbacks went back to. What came
    after that is void, for on following it the run would halt again.

    Where the run does not come to its record again, it goes on from that checkpoint, and the claim makes the record
    void from there on. Where it does not even begin as it did, as with another processor's arithmetic, it goes on from
    the weights that were stored at step 0. Nothing is claimed, and so nothing is void, before the place that the claim
    goes back to was restored and compared. Raises Superseded where another process claimed the run first, InvalidInput
    where the run is over, and Diverged where no place can be restored; then the record is as it was.
    """
    upto, last = recorded.last_accepted(), recorded.facts[-1]
    answered = last.sequence - last.HasField("run_finished")
    torch.set_num_threads(RunConfig.from_json(recorded.root.config_json).threads)
    check_data(recorded.root, task.fingerprint())
    start = latest_checkpoint(recorded, outside.objects, step=_EVER, sequence=answered)
    _catch_up(log, verifier, recorded, answered, outside.clock)
    halted = upto < answered
    how = f"resumed from before it failed: {last.run_finished.reason}" if halted else "resumed"
    reason, superseded = "; ".join([how, *differences(recorded.facts, task.fingerprint())]), halted
    settles = False
    incarnation = recorded.state.incarnation + 1
    while True:
        claim = _claim(recorded, upto, incarnation, start, outside, reason=reason, superseded=superseded)
        if script is not None:
            claim.run_resumed.script.CopyFrom(script)
        live = LiveWorld(outside, incarnation=incarnation)
        world = recorded_world(recorded, live, start=start, upto=upto, claim=claim)
        begun = recorded.begun(0 if start is None else start.sequence)
        try:
            return train(RunConfig.from_json(begun.run_started.config_json), task, world, run_id=begun.run_id)
        except Diverged as error:
            if settles:
                start = first_checkpoint(recorded, outside.objects) if start is None else None
                if start is None:
                    raise
            else:
                reason = f"the record could not be followed: {error}"
            upto, superseded, settles = settled(recorded, start), True, True


def settled(recorded: Recorded, start: Event | None) -> int:
    """The last sequence that belongs to where a run begins again: its checkpoint's, or its first facts'."""
    first = 0 if start is None else start.checkpoint_saved.upto_sequence
    belongs = ("checkpoint_saved", "checkpoint_pruned", *(() if start else ("run_started", "state_digested")))
    upto = first
    while upto < len(recorded.facts) and recorded.facts[upto].WhichOneof("body") in belongs:
        if not recorded.state.on_path(upto + 1):
            break  # a rollback went back to just this state
        upto += 1
    return upto


def _claim(
    recorded: Recorded,
    upto: int,
    incarnation: int,
    start: Event | None,
    outside: Outside,
    *,
    reason: str,
    superseded: bool,
) -> Event:
    """The RunResumed that goes on after the fact `upto`."""
    fact = recorded.facts[upto - 1]
    now_ns = outside.clock.wall_ns()
    machine = this_machine(recorded.root.device, outside.process)
    body = RunResumed(accepted_sequence=upto, superseded=superseded, reason=reason, machine=machine)
    if start is not None:
        body.from_step, body.checkpoint_ref = start.checkpoint_saved.step, start.checkpoint_saved.ref
    return new_event(
        body,
        event_id=ids.uuid7(now_ns, secrets.token_bytes(10)),
        run_id=recorded.run_id,
        producer=PRODUCER,
        recorded_at_ns=now_ns,
        causation_id=fact.event_id,
        sequence=upto + 1,
        incarnation=incarnation,
        timeline=fact.timeline,
        global_step=fact.global_step,
        epoch=fact.epoch,
    )


def _catch_up(log: ClaimableLog, verifier: CommandVerifier, recorded: Recorded, upto: int, clock: Clock) -> None:
    """Give log and verifier the run's decisions and commands: those that were answered and those that were not."""
    done = set(_answered(recorded, upto))
    last = next(fact for fact in reversed(recorded.facts[:upto]) if not fact.HasField("run_resumed"))
    packet = last.event_id if last.HasField("epoch_completed") else b""
    open_requests = []
    if packet in recorded.decisions:
        open_requests.append(_parsed(recorded.decisions[packet]))
    for command_id, signed in recorded.commands.items():
        event, _ = _parsed(signed)
        if command_id in done:
            verifier.remember(signed, now_ns=clock.wall_ns())
        elif event.run_id == recorded.run_id and event.correlation_id in (b"", packet):
            open_requests.append((event, signed))
    log.catch_up(packet, open_requests, [recorded.commands[each] for each in done if each in recorded.commands])


def _answered(recorded: Recorded, upto: int) -> Iterator[bytes]:
    for fact in recorded.facts[:upto]:
        if fact.HasField("command_applied"):
            yield fact.command_applied.command_id
        elif fact.HasField("command_rejected"):
            yield fact.command_rejected.command_id


def _parsed(signed: Signed) -> tuple[Event, Signed]:
    return Event.FromString(signed.payload), signed


def fork_run(
    parent: Recorded, run_id: str, task: Trainable, outside: Outside, *, step: int, change: Change
) -> RunResult:
    """Follow `parent` up to `step` and go on from there as the new run `run_id`, with that one `change`."""
    check_data(parent.root, task.fingerprint())
    upto, place = place_of(parent, step, change)
    start = latest_checkpoint(parent, outside.objects, step=step, sequence=upto)
    begun = parent.begun(0 if start is None else start.sequence)
    fork = Fork(run_id, step, place, change, parent.begun(upto).run_started)
    world = recorded_world(parent, LiveWorld(outside), start=start, upto=upto, fork=fork)
    return train(RunConfig.from_json(begun.run_started.config_json), task, world, run_id=begun.run_id)
