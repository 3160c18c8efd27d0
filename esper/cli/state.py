"""`esper state`: a run as it was at a step or an epoch, folded from its facts alone; torch is not imported for it."""

from __future__ import annotations

import gc
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
from esper.leyline.json_text import configuration
from esper.record import Mark, ModelState, Rate, RunState, SeedState, mark_at_epoch, mark_at_step, packets, replay
from esper.tolaria.learning_rate import MIN_RATE, rising, schedule, warmup_steps
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

    def reached(self, model: ModelState) -> int:
        """How far `model` is, in this place's unit."""
        return model.step if self.unit == "step" else model.epoch


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
    with history_of(data_dir) as history:
        run_id = find_run(history, word)
        state, mark, decision = folded(history, run_id, place)
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


def state_json(history: History, run_id: str, place: Place | None) -> dict[str, Any]:
    """The run's state at a place of its surviving timeline, now without one, as `esper state --json` says it."""
    state, mark, decision = folded(history, run_id, place)
    return to_json(state, mark, decision, rates_at(mark.model, start_of(history, run_id)))


def folded(history: History, run_id: str, place: Place | None) -> tuple[RunState, Mark, Event | None]:
    """The run as it is now, as it was at a place, and the last decision before that.

    By SQL, or fact by fact for a history that cannot be true, of which that says why.
    """
    from projections import folded as in_sql  # noqa: PLC0415 - DuckDB, and only where it is needed

    line = in_sql.Line.of(history, run_id)
    if line is None:
        from projections.lineage import lineage  # noqa: PLC0415 - as above

        state = fold(history, run_id)
        mark = mark_at(state, run_id, place)
        runs = [stretch.run_id for stretch in lineage(history, run_id)]
        return state, mark, decision_on(history, runs, packets(state, mark))
    state = in_sql.run_now(history, line)
    at = None if place is None else reached(state, run_id, place)
    found = in_sql.mark_now(history, line) if at is None else in_sql.mark_at(history, line, at.unit, at.number)
    mark = at_place(found, run_id, place)
    return state, mark, in_sql.decision_before(history, line, mark)


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
    at = reached(state, run_id, place)
    return at_place((mark_at_step if at.unit == "step" else mark_at_epoch)(state, at.number), run_id, place)


def reached(state: RunState, run_id: str, place: Place) -> Place:
    """The place, if the run came there; raises InvalidInput where it never did."""
    come = place.reached(state.model)
    if place.number > come:
        raise InvalidInput(
            f"run {run_id} has no {place.unit} {place.number}: its facts reach {place.unit} {come}; "
            "without --at you see it there"
        )
    return place


def at_place(found: Mark | None, run_id: str, place: Place | None) -> Mark:
    """The mark with the run's clock at the place; raises InvalidInput where there is no mark."""
    if found is None:
        raise InvalidInput(f"run {run_id} begins after {place.unit} {place.number}" if place else f"{run_id} is empty")
    if place is None or place.unit == "epoch":
        return found
    return replace(found, model=replace(found.model, step=place.number))


def to_json(state: RunState, mark: Mark, decision: Event | None, rates: Mapping[str, float]) -> dict[str, Any]:
    """Everything that the fold knows of the run at `mark`."""
    assert state.path is not None
    model, status, saved = mark.model, mark.run_status, mark.model.checkpoint
    return {
        "run_id": state.run_id,
        "step": model.step,
        "epoch": model.epoch,
        "sequence": mark.sequence,
        "timeline": status.timeline,
        "status": status.status,
        "reason": status.reason,
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
        "params": model.params,
        "probe_loss": model.probe_loss,
        "probe_accuracy": model.probe_accuracy,
        "metrics": [each.to_dict() for each in model.metrics],
        "learning_rates": dict(rates),
        "seeds": [_seed_json(seed, model) for seed in model.seeds.values()],
        "policy": state.policy,
        "policy_version": None if decision is None else decision.decision_made.policy_version,
        "last_decision": None if decision is None else _decision_json(decision),
        "last_command_id": text(status.last_command_id) if status.last_command_id else None,
        "open_windows": [
            {"command_id": text(command_id), "seed_id": seed_id} for command_id, seed_id in model.windows.items()
        ],
        "breakers": {name: breaker_state(number) for name, number in status.breakers.items()},
        "conservative": status.conservative,
        "paused": status.paused,
        "last_checkpoint": None
        if saved is None
        else {**asdict(saved), "kept": saved.ref in state.run_status.checkpoints},
    }


def _seed_json(seed: SeedState, model: ModelState) -> dict[str, Any]:
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
        "age_epochs": model.epoch - seed.since_epoch,
        "age_steps": model.step - seed.since_step,
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
    model, status, saved = mark.model, mark.run_status, mark.model.checkpoint
    probe = (
        ""
        if model.probe_loss is None
        else "".join([f", probe loss {model.probe_loss:.4f}", *(f", {each.phrase}" for each in model.metrics)])
    )
    yield "network", f"{model.params:,} parameters{probe}"
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
    mode = "conservative" if status.conservative else "normal"
    yield "mode", f"{mode}, paused by a person" if status.paused else mode
    named = ", ".join(f"{name} {breaker_state(number)}" for name, number in status.breakers.items())
    yield "breakers", named or "none has tripped"
    yield "open windows", ", ".join(sorted(set(model.windows.values()))) or "none"
    if saved is None:
        yield "checkpoint", "none yet"
    else:
        kept = "kept" if saved.ref in state.run_status.checkpoints else "pruned since"
        yield "checkpoint", f"step {saved.step}, {kept}: {saved.ref}"


def _seed_row(seed: SeedState, model: ModelState) -> tuple[Any, ...]:
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
        model.epoch - seed.since_epoch,
    )


def rates_at(model: ModelState, begun: RunStarted) -> dict[str, float]:
    """The learning rate that every group takes its next step with: as it was last changed, moved on by its schedule."""
    try:
        config, steps = configuration(begun.config_json), begun.steps_per_epoch
        scheduled = schedule(
            config["rate_policy"],
            total_steps=begun.epochs * steps,
            warmup_steps=warmup_steps(
                config["rate_policy"],
                config["rate_warmup_epochs"],
                steps,
                structured=bool(config.get("structure")),
            ),
            decay_share=config.get("rate_decay_share", 1.0),
        )
        warm_up = round(config["new_parameter_warmup_epochs"] * steps)
    except (ValueError, KeyError, TypeError, InvalidInput):  # none, as of early runs; a person's own; or a stranger's
        return {group: rate.lr for group, rate in model.learning_rates.items()}

    def factor(step: int, born: int | None) -> float:
        rise = 1.0 if born is None else rising(step - born, warm_up, config["new_parameter_rate"])
        return scheduled(step) * rise

    first = Rate(config["learning_rate"] * factor(0, None), 0)
    rates = {"host": first, **model.learning_rates}
    return {
        group: max(rate.lr * factor(model.step, rate.born) / (factor(rate.step, rate.born) or 1.0), MIN_RATE)
        for group, rate in rates.items()
    }
