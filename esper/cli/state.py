"""`esper state`: a run as it was at a step or an epoch, folded from its facts alone; torch is not imported for it."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from contracts.leyline.v1.event_pb2 import RunStarted
from esper.cli.events import breaker_state, chosen, stage
from esper.cli.history import find_run, history_of
from esper.cli.output import BOLD, RED, complain, one_line, say, say_json, styled, table
from esper.cli.replay import recorded_run
from esper.cli.trust import check_code
from esper.errors import InvalidInput
from esper.karn.table import with_names
from esper.leyline.envelope import Event
from esper.leyline.ids import text
from esper.record import Mark, ModelState, Rate, RunState, SeedState, mark_at_epoch, mark_at_step, packets, replay
from esper.tolaria.learning_rate import MIN_RATE, rising, schedule
from projections.run_queries import decision_on, start_of

if TYPE_CHECKING:
    from projections.history import History


_PLACE: Final = re.compile(r"(epoch:)?(\d+)")
_SEED_HEADERS: Final = (
    "seed",
    "site",
    "stage",
    "blueprint",
    "alpha",
    "life",
    "params",
    "form",
    "since epoch",
    "epochs ago",
)


@dataclass(frozen=True, slots=True)
class Place:
    """After so many optimiser steps, or after so many epochs."""

    unit: Literal["step", "epoch"]
    number: int

    def reached(self, world: ModelState) -> int:
        """How far `world` is, in this place's unit."""
        return world.step if self.unit == "step" else world.epoch


def place_of(word: str) -> Place:
    """`120` is a step and `epoch:7` an epoch; raises InvalidInput for anything else."""
    match = _PLACE.fullmatch(word)
    if match is None:
        raise InvalidInput(f"--at {word!r} is neither a step, such as 120, nor an epoch, such as epoch:7")
    return Place("epoch" if match[1] else "step", int(match[2]))


def state_command(
    data_dir: Path, word: str, at: str | None, load: Path | None, *, trust: bool = False, as_json: bool
) -> None:
    """The run's state at a place of its surviving timeline, now without one; its weights go to the file `load`."""
    place = None if at is None else place_of(at)
    from projections.lineage import lineage  # noqa: PLC0415 - DuckDB, and only where it is needed

    with history_of(data_dir) as history:
        run_id = find_run(history, word)
        state = fold(history, run_id)
        mark = mark_at(state, run_id, place)
        runs = [stretch.run_id for stretch in lineage(history, run_id)]
        decision = decision_on(history, runs, packets(state, mark))
        rates = rates_at(mark.model, start_of(history, run_id))
        recorded = None if load is None else recorded_run(history, run_id)
        if load is not None:
            check_code(history, run_id, data_dir, "write the weights of", trust=trust)
    if load is not None and recorded is not None:
        from esper.cli.weights import check_writable, write_weights  # noqa: PLC0415 - torch, and only --load needs it

        check_writable(load)
        write_weights(data_dir, recorded, mark, load)
        complain(f"the weights at step {mark.model.step} are in {load}")
    if as_json:
        say_json(to_json(state, mark, decision, rates))
    else:
        show(state, mark, decision, rates)


def fold(history: History, run_id: str) -> RunState:
    """The fold of a run's facts, a fork's parent's before its own."""
    from projections.lineage import facts  # noqa: PLC0415 - as in `history_of`

    was_enabled = gc.isenabled()
    gc.disable()  # every fact makes a few objects that live on, and none is a cycle: looking for them costs a third
    try:
        return replay(facts(history, run_id))
    finally:
        if was_enabled:
            gc.enable()


def mark_at(state: RunState, run_id: str, place: Place | None) -> Mark:
    """The last fact at a place of the surviving timeline, with the run's clock at that place.

    Raises InvalidInput where the run never came there.
    """
    if state.path is None:
        raise InvalidInput(f"run {run_id} cannot be folded: {state.problem}")
    if place is None:
        return state.path
    reached = place.reached(state.model)
    if place.number > reached:
        raise InvalidInput(
            f"run {run_id} has no {place.unit} {place.number}: its facts reach {place.unit} {reached}; "
            "without --at you see it there"
        )
    found = (mark_at_step if place.unit == "step" else mark_at_epoch)(state, place.number)
    if found is None:
        raise InvalidInput(f"run {run_id} begins after {place.unit} {place.number}")
    return replace(found, model=replace(found.model, step=place.number)) if place.unit == "step" else found


def to_json(state: RunState, mark: Mark, decision: Event | None, rates: Mapping[str, float]) -> dict[str, Any]:
    """Everything that the fold knows of the run at `mark`."""
    assert state.path is not None
    world, standing, saved = mark.model, mark.run_status, mark.model.checkpoint
    return {
        "run_id": state.run_id,
        "step": world.step,
        "epoch": world.epoch,
        "sequence": mark.sequence,
        "timeline": standing.timeline,
        "status": standing.status,
        "reason": standing.reason,
        "now": {
            "step": state.model.step,
            "epoch": state.model.epoch,
            "sequence": state.sequence,
            "timeline": state.timeline,
            "incarnation": state.incarnation,
            "status": state.status,
            "problem": None if state.problem is None else asdict(state.problem),
        },
        "task": state.task,
        "params": world.params,
        "probe_loss": world.probe_loss,
        "probe_accuracy": world.probe_accuracy,
        "learning_rates": dict(rates),
        "seeds": [_seed_json(seed, world) for seed in world.seeds.values()],
        "policy": state.policy,
        "policy_version": None if decision is None else decision.decision_made.policy_version,
        "last_decision": None if decision is None else _decision_json(decision),
        "last_command_id": text(standing.last_command_id) if standing.last_command_id else None,
        "open_windows": [
            {"command_id": text(command_id), "seed_id": seed_id} for command_id, seed_id in world.windows.items()
        ],
        "breakers": {name: breaker_state(number) for name, number in standing.breakers.items()},
        "conservative": standing.conservative,
        "last_checkpoint": None
        if saved is None
        else {**asdict(saved), "kept": saved.ref in state.run_status.checkpoints},
    }


def _seed_json(seed: SeedState, world: ModelState) -> dict[str, Any]:
    return {
        "seed_id": seed.seed_id,
        "site": seed.site,
        "stage": stage(seed.stage),
        "blueprint_id": seed.blueprint_id or None,
        "alpha": seed.alpha,
        "life": seed.life,
        "parameters": seed.parameters,
        "form": seed.form or None,
        "since_epoch": seed.since_epoch,
        "since_step": seed.since_step,
        "age_epochs": world.epoch - seed.since_epoch,
        "age_steps": world.step - seed.since_step,
    }


def _decision_json(event: Event) -> dict[str, Any]:
    body = event.decision_made
    return {
        "decision_id": text(event.event_id),
        "epoch": event.epoch,
        "step": event.global_step,
        "chosen": chosen(body),
        "reason": body.reason,
        "risk": body.risk,
        "policy": body.policy,
        "policy_version": body.policy_version,
        "command_id": text(body.command_id) if body.command_id else None,
    }


def show(state: RunState, mark: Mark, decision: Event | None, rates: Mapping[str, float]) -> None:
    """Lines about the network and the run, and a table of the seeds."""
    now = "" if mark.sequence == state.sequence else f"; by now step {state.model.step}, epoch {state.model.epoch}"
    say(styled(f"run {state.run_id} at step {mark.model.step}, epoch {mark.model.epoch}", BOLD) + now)
    why = f" ({mark.run_status.reason})" if mark.run_status.reason else ""
    where = f"timeline {mark.run_status.timeline}, fact {mark.sequence} of {state.sequence}"
    say(one_line(f"{state.task}, {mark.run_status.status}{why}, {where}"))
    if state.problem is not None:
        say(styled(one_line(f"the history stops here, because it cannot be true: {state.problem}"), RED))
    say()
    for name, line in _lines(state, mark, decision, rates):
        say(one_line(f"{name:<15}{line}"))
    say()
    say(
        table(_SEED_HEADERS, [_seed_row(seed, mark.model) for seed in mark.model.seeds.values()], right=(4, 5, 6, 8, 9))
    )


def _lines(
    state: RunState, mark: Mark, decision: Event | None, rates: Mapping[str, float]
) -> Iterable[tuple[str, str]]:
    world, standing, saved = mark.model, mark.run_status, mark.model.checkpoint
    probe = (
        "" if world.probe_loss is None else f", probe loss {world.probe_loss:.4f}, accuracy {world.probe_accuracy:.4f}"
    )
    yield "network", f"{world.params:,} parameters{probe}"
    yield "learning rates", ", ".join(f"{group} {rate:.4g}" for group, rate in rates.items()) or "-"
    if decision is None:
        yield "last decision", f"none yet (policy {state.policy})"
    else:
        body = decision.decision_made
        yield (
            "last decision",
            with_names(f"epoch {decision.epoch}: {chosen(body)}{f': {body.reason}' if body.reason else ''}"),
        )
        yield "policy", f"{body.policy} {body.policy_version}".strip()
    yield "mode", "conservative" if standing.conservative else "normal"
    named = ", ".join(f"{name} {breaker_state(number)}" for name, number in standing.breakers.items())
    yield "breakers", named or "none has tripped"
    yield "open windows", ", ".join(sorted(set(world.windows.values()))) or "none"
    if saved is None:
        yield "checkpoint", "none yet"
    else:
        kept = "kept" if saved.ref in state.run_status.checkpoints else "pruned since"
        yield "checkpoint", f"step {saved.step}, {kept}: {saved.ref}"


def _seed_row(seed: SeedState, world: ModelState) -> tuple[Any, ...]:
    return (
        seed.seed_id,
        seed.site,
        stage(seed.stage),
        with_names(seed.blueprint_id) or None,
        seed.alpha,
        seed.life,
        f"{seed.parameters:,}",
        seed.form or None,
        seed.since_epoch,
        world.epoch - seed.since_epoch,
    )


def rates_at(world: ModelState, begun: RunStarted) -> dict[str, float]:
    """The learning rate that every group takes its next step with: as it was last changed, moved on by its schedule."""
    try:
        config, steps = json.loads(begun.config_json), begun.steps_per_epoch
        scheduled = schedule(
            config["rate_policy"],
            total_steps=begun.epochs * steps,
            warmup_steps=round(config["rate_warmup_epochs"] * steps),
        )
        warm_up = round(config["new_parameter_warmup_epochs"] * steps)
    except (ValueError, KeyError, TypeError):  # none, as of early runs, or a stranger's
        return {group: rate.lr for group, rate in world.learning_rates.items()}

    def factor(step: int, born: int | None) -> float:
        rise = 1.0 if born is None else rising(step - born, warm_up, config["new_parameter_rate"])
        return scheduled(step) * rise

    first = Rate(config["learning_rate"] * factor(0, None), 0)
    rates = {"host": first, **world.learning_rates}
    return {
        group: max(rate.lr * factor(world.step, rate.born) / (factor(rate.step, rate.born) or 1.0), MIN_RATE)
        for group, rate in rates.items()
    }
