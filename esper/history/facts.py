"""What each fact changes: one small function per body of `esper.runs`, in a table that a test holds complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

from contracts.leyline.v1.event_pb2 import SeedObservation
from esper.history.state import Rate, Saved, SeedState, Standing, World
from esper.kasmina.lifecycle import ATTACHED
from esper.leyline.envelope import Event

NEW_PARAMETERS: Final = "new parameters"
"""The reason of a learning rate that a group of the optimiser begins with."""

K = TypeVar("K")
V = TypeVar("V")


def started(event: Event) -> tuple[World, Standing]:
    """The run's first fact: its seed slots, and the network without any of them; a fork's are as it found them."""
    body = event.run_started
    seeds = {site.seed_id: SeedState(site.seed_id, site.site) for site in body.sites}
    for seen in body.inherited:
        seeds[seen.seed_id] = _inherited(seeds.get(seen.seed_id) or SeedState(seen.seed_id), seen)
    return World(seeds=seeds, params=body.params_host), Standing(status="running", timeline=event.timeline)


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


def resumed(standing: Standing, event: Event) -> Standing:
    """The claim of a higher incarnation, or a fork's start, goes on from the standing after the last fact accepted."""
    return replace(standing, status="running", reason="", timeline=event.timeline)


def rolled_back(standing: Standing, event: Event) -> Standing:
    """A new timeline; the world is that of an earlier fact."""
    return replace(standing, timeline=event.rolled_back.new_timeline)


def _epoch(world: World, event: Event) -> World:
    """What the trainer saw at the end of an epoch. Stages come from transitions alone."""
    body = event.epoch_completed
    seeds = dict(world.seeds)
    for seen in body.seeds:
        known = seeds.get(seen.seed_id) or SeedState(seen.seed_id)
        seeds[seen.seed_id] = known.reported(seen.alpha, seen.parameters, seen.stage_age_epochs)
    return replace(
        world,
        step=event.global_step,
        epoch=event.epoch,
        seeds=seeds,
        params=body.params,
        probe_loss=body.state.validation_loss,
        probe_accuracy=body.state.validation_accuracy,
        windows={window.command_id: window.seed_id for window in body.windows if not window.closed},
    )


def _transition(world: World, event: Event) -> World:
    body = event.seed_transitioned
    known = world.seeds.get(body.seed_id) or SeedState(body.seed_id)
    attached = body.to_stage in ATTACHED
    moved = SeedState(
        seed_id=known.seed_id,
        site=body.site or known.site,
        stage=body.to_stage,
        blueprint_id=body.blueprint_id if attached else "",
        alpha=body.alpha,
        life=body.life,
        parameters=body.parameters,
        form=known.form if attached else "",
        since_sequence=event.sequence,
        since_step=event.global_step,
        since_epoch=event.epoch,
        moved=True,
    )
    return _with_seed(world, moved)


def _attached(world: World, event: Event) -> World:
    body = event.kernel_attached
    known = world.seeds.get(body.seed_id) or SeedState(body.seed_id)
    seed = replace(known, blueprint_id=body.blueprint_id, parameters=body.module_parameters, form=body.form)
    return _with_seed(world, seed)


def _swapped(world: World, event: Event) -> World:
    body = event.kernel_swapped
    known = world.seeds.get(body.seed_id) or SeedState(body.seed_id)
    return _with_seed(world, replace(known, form=body.to_form))


def _learning_rate(world: World, event: Event) -> World:
    body = event.learning_rate_changed
    known = world.learning_rates.get(body.group)
    born = event.global_step if body.reason == NEW_PARAMETERS else known.born if known is not None else None
    rate = Rate(body.new_lr, event.global_step, born)
    return replace(world, learning_rates=_with(world.learning_rates, body.group, rate))


def _optimizer(world: World, event: Event) -> World:
    """Who loses its group of parameters loses its learning rate."""
    body = event.optimizer_changed
    if body.change != "group_removed" or body.group not in world.learning_rates:
        return world
    left = {group: rate for group, rate in world.learning_rates.items() if group != body.group}
    return replace(world, learning_rates=left)


def _applied(standing: Standing, event: Event) -> Standing:
    body = event.command_applied
    decision_id = body.decision_id or standing.last_decision_id
    return replace(standing, last_command_id=body.command_id, last_decision_id=decision_id)


def _last_saved(world: World, event: Event) -> World:
    body = event.checkpoint_saved
    return replace(world, checkpoint=Saved(body.ref, body.step, body.upto_sequence))


def _saved(standing: Standing, event: Event) -> Standing:
    body = event.checkpoint_saved
    return replace(standing, checkpoints=_with(standing.checkpoints, body.ref, body.step))


def _pruned(standing: Standing, event: Event) -> Standing:
    ref = event.checkpoint_pruned.ref
    if ref not in standing.checkpoints:
        return standing
    return replace(standing, checkpoints={each: step for each, step in standing.checkpoints.items() if each != ref})


def _breaker(standing: Standing, event: Event) -> Standing:
    body = event.breaker_changed
    return replace(standing, breakers=_with(standing.breakers, body.breaker, body.to_state))


def _mode(standing: Standing, event: Event) -> Standing:
    entered = event.conservative_mode_changed.entered
    return replace(standing, conservative=entered)


def _mode_at_epoch(standing: Standing, event: Event) -> Standing:
    seen = event.epoch_completed.conservative
    return standing if seen == standing.conservative else replace(standing, conservative=seen)


def _finished(standing: Standing, event: Event) -> Standing:
    return replace(standing, status=event.run_finished.status, reason=event.run_finished.reason)


def _with_seed(world: World, seed: SeedState) -> World:
    return replace(world, seeds=_with(world.seeds, seed.seed_id, seed))


def _with(mapping: Mapping[K, V], key: K, value: V) -> dict[K, V]:
    return {**mapping, key: value}


TO_WORLD: Final[dict[str, Callable[[World, Event], World]]] = {
    "epoch_completed": _epoch,
    "seed_transitioned": _transition,
    "learning_rate_changed": _learning_rate,
    "optimizer_changed": _optimizer,
    "kernel_attached": _attached,
    "kernel_swapped": _swapped,
    "checkpoint_saved": _last_saved,
}
TO_STANDING: Final[dict[str, Callable[[Standing, Event], Standing]]] = {
    "run_finished": _finished,
    "epoch_completed": _mode_at_epoch,
    "command_applied": _applied,
    "checkpoint_saved": _saved,
    "checkpoint_pruned": _pruned,
    "breaker_changed": _breaker,
    "conservative_mode_changed": _mode,
}
NOTED: Final = frozenset({"decision_timed_out", "command_rejected", "gate_evaluated", "state_digested"})
"""By the body's name: what a fact does to the world, what to the rest, and which only move the run's clock.
`run_started`, `run_resumed`, `rolled_back` change where the path goes on: see `fold`."""
KNOWN: Final = NOTED | TO_WORLD.keys() | TO_STANDING.keys()
