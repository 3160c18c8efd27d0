"""What each fact changes: one small function per body of `esper.runs`, in a table that a test holds complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

from contracts.leyline.v1.event_pb2 import SeedObservation
from esper.history.state import RunState, SeedState, World
from esper.kasmina.lifecycle import ATTACHED
from esper.leyline.envelope import Event

K = TypeVar("K")
V = TypeVar("V")


def started(state: RunState, event: Event) -> RunState:
    """The run's first fact: what it is to do, and its seed slots; a fork's are as it found them."""
    body = event.run_started
    seeds = {site.seed_id: SeedState(site.seed_id, site.site) for site in body.sites}
    for seen in body.inherited:
        seeds[seen.seed_id] = _inherited(seeds.get(seen.seed_id, SeedState(seen.seed_id)), seen)
    return _named(replace(state, world=World(seeds=seeds, params=body.params_host)), event)


def forked(state: RunState, event: Event, world: World) -> RunState:
    """A fork's first fact after the history of its parent: the same world under another name."""
    return _named(replace(state, world=world, reason=""), event)


def _named(state: RunState, event: Event) -> RunState:
    body = event.run_started
    return replace(
        state,
        run_id=event.run_id,
        task=body.task,
        policy=body.policy,
        status="running",
        incarnation=event.incarnation,
        timeline=event.timeline,
    )


def _inherited(slot: SeedState, seen: SeedObservation) -> SeedState:
    return replace(
        slot,
        stage=seen.stage,
        blueprint_id=seen.blueprint_id,
        alpha=seen.alpha,
        life=seen.life,
        parameters=seen.parameters,
        stage_age_epochs=seen.stage_age_epochs,
        moved=True,
    )


def _finished(state: RunState, event: Event) -> RunState:
    return replace(state, status=event.run_finished.status, reason=event.run_finished.reason)


def _epoch(state: RunState, event: Event) -> RunState:
    """What the trainer saw at the end of an epoch. Stages come from transitions alone."""
    body = event.epoch_completed
    seeds = dict(state.world.seeds)
    for seen in body.seeds:
        known = seeds.get(seen.seed_id, SeedState(seen.seed_id))
        seeds[seen.seed_id] = replace(
            known, alpha=seen.alpha, parameters=seen.parameters, stage_age_epochs=seen.stage_age_epochs
        )
    world = replace(
        state.world,
        seeds=seeds,
        params=body.params,
        probe_loss=body.state.validation_loss,
        probe_accuracy=body.state.validation_accuracy,
        windows={window.command_id: window.seed_id for window in body.windows if not window.closed},
    )
    return replace(state, world=world, conservative=body.conservative)


def _transition(state: RunState, event: Event) -> RunState:
    body = event.seed_transitioned
    known = state.world.seeds.get(body.seed_id, SeedState(body.seed_id))
    moved = replace(
        known,
        site=body.site or known.site,
        stage=body.to_stage,
        blueprint_id=body.blueprint_id if body.to_stage in ATTACHED else "",
        alpha=body.alpha,
        life=body.life,
        parameters=body.parameters,
        form=known.form if body.to_stage in ATTACHED else "",
        stage_age_epochs=0,
        since_sequence=event.sequence,
        since_step=event.global_step,
        since_epoch=event.epoch,
        moved=True,
    )
    return _with_seed(state, moved)


def _attached(state: RunState, event: Event) -> RunState:
    body = event.kernel_attached
    known = state.world.seeds.get(body.seed_id, SeedState(body.seed_id))
    seed = replace(known, blueprint_id=body.blueprint_id, parameters=body.module_parameters, form=body.form)
    return _with_seed(state, seed)


def _swapped(state: RunState, event: Event) -> RunState:
    body = event.kernel_swapped
    known = state.world.seeds.get(body.seed_id, SeedState(body.seed_id))
    return _with_seed(state, replace(known, form=body.to_form))


def _learning_rate(state: RunState, event: Event) -> RunState:
    body = event.learning_rate_changed
    rates = _with(state.world.learning_rates, body.group, body.new_lr)
    return replace(state, world=replace(state.world, learning_rates=rates))


def _applied(state: RunState, event: Event) -> RunState:
    body = event.command_applied
    decision_id = body.decision_id or state.last_decision_id
    return replace(state, last_command_id=body.command_id, last_decision_id=decision_id)


def _saved(state: RunState, event: Event) -> RunState:
    body = event.checkpoint_saved
    return replace(state, checkpoints=_with(state.checkpoints, body.ref, body.step))


def _pruned(state: RunState, event: Event) -> RunState:
    kept = {ref: step for ref, step in state.checkpoints.items() if ref != event.checkpoint_pruned.ref}
    return replace(state, checkpoints=kept)


def _breaker(state: RunState, event: Event) -> RunState:
    body = event.breaker_changed
    return replace(state, breakers=_with(state.breakers, body.breaker, body.to_state))


def _conservative(state: RunState, event: Event) -> RunState:
    return replace(state, conservative=event.conservative_mode_changed.entered)


def _noted(state: RunState, _event: Event) -> RunState:
    """A fact that moves the run's clock and nothing else."""
    return state


def _with_seed(state: RunState, seed: SeedState) -> RunState:
    return replace(state, world=replace(state.world, seeds=_with(state.world.seeds, seed.seed_id, seed)))


def _with(mapping: Mapping[K, V], key: K, value: V) -> dict[K, V]:
    return {**mapping, key: value}


APPLY: Final[dict[str, Callable[[RunState, Event], RunState]]] = {
    "run_finished": _finished,
    "epoch_completed": _epoch,
    "decision_timed_out": _noted,
    "command_applied": _applied,
    "command_rejected": _noted,
    "seed_transitioned": _transition,
    "gate_evaluated": _noted,
    "optimizer_changed": _noted,
    "learning_rate_changed": _learning_rate,
    "kernel_attached": _attached,
    "kernel_swapped": _swapped,
    "checkpoint_saved": _saved,
    "checkpoint_pruned": _pruned,
    "state_digested": _noted,
    "breaker_changed": _breaker,
    "conservative_mode_changed": _conservative,
}
"""By the body's name. `run_started`, `run_resumed` and `rolled_back` change where the path goes on: see `fold`."""
