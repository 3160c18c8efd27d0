"""A run at one moment, as JSON types and as a person reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from esper.cli.describe import breaker_state, chosen, stage
from esper.cli.output import BOLD, RED, say, styled, table
from esper.leyline.envelope import Event
from esper.leyline.ids import text
from esper.record import Mark, ModelState, RunState, SeedState


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
    say(
        f"{state.task}, {mark.run_status.status}{f' ({mark.run_status.reason})' if mark.run_status.reason else ''}, "
        f"timeline {mark.run_status.timeline}, fact {mark.sequence} of {state.sequence}"
    )
    if state.problem is not None:
        say(styled(f"the history stops here, because it cannot be true: {state.problem}", RED))
    say()
    for name, line in _lines(state, mark, decision, rates):
        say(f"{name:<15}{line}")
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
        yield "last decision", f"epoch {decision.epoch}: {chosen(body)}{f': {body.reason}' if body.reason else ''}"
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


def _seed_row(seed: SeedState, world: ModelState) -> tuple[Any, ...]:
    return (
        seed.seed_id,
        seed.site,
        stage(seed.stage),
        seed.blueprint_id or None,
        seed.alpha,
        seed.life,
        f"{seed.parameters:,}",
        seed.form or None,
        seed.since_epoch,
        world.epoch - seed.since_epoch,
    )
