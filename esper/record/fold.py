"""The fold of a run's facts: `evolve(state, event)` and `replay(events)`, pure, deterministic, equal to the SQL.

`accept.judge` says which facts count; here is what each that counts changes. One that cannot be true stops the fold of
its run, and `RunState.problem` says so; it is never left out silently. Facts must come in the order of the log; how
they are mixed with other topics does not matter.

The fold of a fork takes the parent's facts first (`projections.lineage` gives them all in this order) or, without them,
begins with the seeds that its first fact says it inherited; then only a rollback to a fact of the parent's cannot be
followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

from contracts.leyline.v1.event_pb2 import SeedObservation
from contracts.topics import BY_BODY, RUNS
from esper.kasmina.lifecycle import ATTACHED
from esper.leyline.envelope import Event
from esper.metric import figures_of_probe
from esper.record.accept import CLAIMS, Fact, Judgement, Verdict, judge
from esper.record.model_state import ModelState, Rate, Saved, SeedState
from esper.record.run_status import Ledger, Mark, Problem, RunState, RunStatus, mark_of

NEW_PARAMETERS: Final = "new parameters"
"""The reason of a learning rate that a group of the optimiser begins with."""

K = TypeVar("K")
V = TypeVar("V")


def replay(events: Iterable[Event], state: RunState | None = None) -> RunState:
    """The state after `events` of one run, which come in the order of the log."""
    folded = state or RunState()
    for event in events:
        folded = evolve(folded, event)
    return folded


def evolve(state: RunState, event: Event) -> RunState:
    """The state after one more event. Never raises for what is on the log: a wrong fact sets `problem`."""
    return step(state, event)[0]


def step(state: RunState, event: Event) -> tuple[RunState, Verdict | None]:
    """The state after one more event, and what that event was; None for an event that is no fact."""
    name = event.WhichOneof("body")
    if name is None or BY_BODY[name] is not RUNS:
        return state, None
    body = getattr(event, name)
    judged = judge(state, Fact(event.run_id, name, event.event_id, event.incarnation, event.sequence, body))
    match judged.verdict:
        case Verdict.ACCEPTED:
            return _followed(state, event, name), judged.verdict
        case Verdict.REPEATED:
            return replace(state, duplicates=state.duplicates + 1), judged.verdict
        case Verdict.VOID:
            return replace(state, void=state.void + 1), judged.verdict
        case Verdict.AFTER_STOP:
            return state, judged.verdict
        case _:
            return _stopped(state, event, name, judged)


def _followed(state: RunState, event: Event, name: str) -> RunState:
    if name == "run_started":
        return _forked(state, event) if state.begun else _begun(state, event)
    if name == "run_resumed":
        return _claimed(state, event)
    if name == "rolled_back":
        return _went_back(state, event)
    model, status = state.model, state.run_status
    if name == "seed_absorbed":
        state = replace(state, declared=state.declared | {event.seed_absorbed.opened})
    if (to_model := TO_MODEL.get(name)) is not None:
        model = to_model(model, event)
    if (to_status := TO_STATUS.get(name)) is not None:
        status = to_status(status, event)
    return _accepted(state, event, name, model, status, previous=state.path)


def _begun(state: RunState, event: Event) -> RunState:
    """The run's first fact."""
    body = event.run_started
    declared = frozenset(site.seed_id for site in body.sites) | {seen.seed_id for seen in body.inherited}
    before = replace(state, ledger=Ledger.after(body.parent_sequence), shared=body.parent_sequence, declared=declared)
    return _accepted(_named(before, event), event, "run_started", *_started(event), previous=None)


def _forked(state: RunState, event: Event) -> RunState:
    """The first fact of a fork after the facts of its parent."""
    target = _target(state, event.run_started.parent_sequence)
    child = _named(replace(state, ledger=state.ledger.cut(target.sequence)), event)
    return _accepted(child, event, "run_started", target.model, _resumed(target.run_status, event), previous=target)


def _named(state: RunState, event: Event) -> RunState:
    body = event.run_started
    return replace(state, run_id=event.run_id, task=body.task, policy=body.policy, incarnation=event.incarnation)


def _claimed(state: RunState, event: Event) -> RunState:
    """A resume by a higher incarnation."""
    target = _target(state, event.run_resumed.accepted_sequence)
    owned = replace(state, incarnation=event.incarnation, ledger=state.ledger.cut(target.sequence))
    return _accepted(owned, event, "run_resumed", target.model, _resumed(target.run_status, event), previous=target)


def _went_back(state: RunState, event: Event) -> RunState:
    body = event.rolled_back
    target = _target(state, body.to_sequence)
    model = target.model.at(body.to_step, body.to_epoch)
    status = _rolled_back(state.run_status, event)
    return _accepted(state, event, "rolled_back", model, status, previous=target, moves_clock=False)


def _target(state: RunState, sequence: int) -> Mark:
    mark = mark_of(state, sequence)
    assert mark is not None  # else the fact would not have been accepted
    return mark


def _accepted(
    state: RunState,
    event: Event,
    name: str,
    model: ModelState,
    status: RunStatus,
    *,
    previous: Mark | None,
    moves_clock: bool = True,
) -> RunState:
    """`state` with the fact on its path, and the run's clock at the fact's."""
    if moves_clock and (model.step != event.global_step or model.epoch != event.epoch):
        model = model.at(event.global_step, event.epoch)
    path = Mark(event.sequence, name, model, status, previous)
    return state.followed(path, state.ledger.appended(event.event_id))


def _stopped(state: RunState, event: Event, name: str, judged: Judgement) -> tuple[RunState, Verdict]:
    """The run stops. What only the parent's facts can decide is wrong without them."""
    verdict = judged.verdict
    if verdict is Verdict.UNDECIDED:
        verdict = Verdict.BAD_CLAIM if name in CLAIMS else Verdict.BAD_ROLLBACK
    problem = Problem(verdict.name.lower(), event.sequence, judged.detail)
    return replace(state, run_id=state.run_id or event.run_id, problem=problem), verdict


# What each fact changes.


def _started(event: Event) -> tuple[ModelState, RunStatus]:
    """The run's first fact: its seed slots, and the network without any of them; a fork's are as it found them."""
    body = event.run_started
    seeds = {site.seed_id: SeedState(site.seed_id, site.site) for site in body.sites}
    for seen in body.inherited:
        seeds[seen.seed_id] = _inherited(seeds.get(seen.seed_id) or SeedState(seen.seed_id), seen)
    return ModelState(seeds=seeds, params=body.params_host), RunStatus(status="running", timeline=event.timeline)


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


def _resumed(status: RunStatus, event: Event) -> RunStatus:
    """The claim of a higher incarnation, or a fork's start, goes on from the status after the last accepted fact."""
    return replace(status, status="running", reason="", timeline=event.timeline)


def _rolled_back(status: RunStatus, event: Event) -> RunStatus:
    """A new timeline; the model is that of an earlier fact."""
    return replace(status, timeline=event.rolled_back.new_timeline)


def _epoch(model: ModelState, event: Event) -> ModelState:
    """The state packet at the end of an epoch. Stages come from transitions alone."""
    body = event.epoch_completed
    seeds = dict(model.seeds)
    for seen in body.seeds:
        known = seeds.get(seen.seed_id) or SeedState(seen.seed_id)
        seeds[seen.seed_id] = known.reported(seen.alpha, seen.parameters, seen.stage_age_epochs)
    return replace(
        model,
        step=event.global_step,
        epoch=event.epoch,
        seeds=seeds,
        params=body.params,
        probe_loss=body.state.validation_loss,
        probe_accuracy=body.state.validation_accuracy,
        metrics=tuple(figures_of_probe(body)),
        windows={window.command_id: window.seed_id for window in body.windows if not window.closed},
    )


def _transition(model: ModelState, event: Event) -> ModelState:
    body = event.seed_transitioned
    known = model.seeds.get(body.seed_id) or SeedState(body.seed_id)
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
    return _with_seed(model, moved)


def _absorbed(model: ModelState, event: Event) -> ModelState:
    """A width seed's units are the host's now; a slot opened at the wider place."""
    body = event.seed_absorbed
    return _with_seed(model, SeedState(body.opened, body.site))


def _attached(model: ModelState, event: Event) -> ModelState:
    body = event.kernel_attached
    known = model.seeds.get(body.seed_id) or SeedState(body.seed_id)
    seed = replace(known, blueprint_id=body.blueprint_id, parameters=body.module_parameters, form=body.form)
    return _with_seed(model, seed)


def _swapped(model: ModelState, event: Event) -> ModelState:
    body = event.kernel_swapped
    known = model.seeds.get(body.seed_id) or SeedState(body.seed_id)
    return _with_seed(model, replace(known, form=body.to_form))


def _learning_rate(model: ModelState, event: Event) -> ModelState:
    body = event.learning_rate_changed
    known = model.learning_rates.get(body.group)
    born = event.global_step if body.reason == NEW_PARAMETERS else known.born if known is not None else None
    rate = Rate(body.new_lr, event.global_step, born)
    return replace(model, learning_rates=_with(model.learning_rates, body.group, rate))


def _optimizer(model: ModelState, event: Event) -> ModelState:
    """A group of parameters that is removed loses its learning rate."""
    body = event.optimizer_changed
    if body.change != "group_removed" or body.group not in model.learning_rates:
        return model
    left = {group: rate for group, rate in model.learning_rates.items() if group != body.group}
    return replace(model, learning_rates=left)


def _applied(status: RunStatus, event: Event) -> RunStatus:
    body = event.command_applied
    decision_id = body.decision_id or status.last_decision_id
    paused = body.paused if body.HasField("paused") else status.paused
    return replace(status, last_command_id=body.command_id, last_decision_id=decision_id, paused=paused)


def _last_saved(model: ModelState, event: Event) -> ModelState:
    body = event.checkpoint_saved
    return replace(model, checkpoint=Saved(body.ref, body.step, body.upto_sequence))


def _saved(status: RunStatus, event: Event) -> RunStatus:
    body = event.checkpoint_saved
    return replace(status, checkpoints=_with(status.checkpoints, body.ref, body.step))


def _pruned(status: RunStatus, event: Event) -> RunStatus:
    ref = event.checkpoint_pruned.ref
    if ref not in status.checkpoints:
        return status
    return replace(status, checkpoints={each: step for each, step in status.checkpoints.items() if each != ref})


def _breaker(status: RunStatus, event: Event) -> RunStatus:
    body = event.breaker_changed
    return replace(status, breakers=_with(status.breakers, body.breaker, body.to_state))


def _mode(status: RunStatus, event: Event) -> RunStatus:
    entered = event.conservative_mode_changed.entered
    return replace(status, conservative=entered)


def _mode_at_epoch(status: RunStatus, event: Event) -> RunStatus:
    seen = event.epoch_completed.conservative
    return status if seen == status.conservative else replace(status, conservative=seen)


def _finished(status: RunStatus, event: Event) -> RunStatus:
    return replace(status, status=event.run_finished.status, reason=event.run_finished.reason)


def _with_seed(model: ModelState, seed: SeedState) -> ModelState:
    return replace(model, seeds=_with(model.seeds, seed.seed_id, seed))


def _with(mapping: Mapping[K, V], key: K, value: V) -> dict[K, V]:
    return {**mapping, key: value}


TO_MODEL: Final[dict[str, Callable[[ModelState, Event], ModelState]]] = {
    "epoch_completed": _epoch,
    "seed_transitioned": _transition,
    "seed_absorbed": _absorbed,
    "learning_rate_changed": _learning_rate,
    "optimizer_changed": _optimizer,
    "kernel_attached": _attached,
    "kernel_swapped": _swapped,
    "checkpoint_saved": _last_saved,
}
TO_STATUS: Final[dict[str, Callable[[RunStatus, Event], RunStatus]]] = {
    "run_finished": _finished,
    "epoch_completed": _mode_at_epoch,
    "command_applied": _applied,
    "checkpoint_saved": _saved,
    "checkpoint_pruned": _pruned,
    "breaker_changed": _breaker,
    "conservative_mode_changed": _mode,
}
NOTED: Final = frozenset({"decision_timed_out", "command_rejected", "gate_evaluated", "state_digested"})
"""By the body's name: what a fact does to the model, what to the run's status, and which only move the run's clock.
`run_started`, `run_resumed`, `rolled_back` change where the path goes on."""
