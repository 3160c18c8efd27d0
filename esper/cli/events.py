"""One line for an event, and `esper events`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from contracts.leyline.v1 import leyline_pb2
from contracts.topics import BLUEPRINTS, KERNELS
from esper.cli.awaited import await_run, clients_of
from esper.cli.history import find_run, history_of
from esper.cli.output import CYAN, DIM, GREEN, RED, YELLOW, one_line, say_hanging, say_json, styled
from esper.errors import InvalidInput
from esper.karn.table import CATALOGUE, with_names
from esper.kasmina.gates import SIGNS, rule_of
from esper.leyline import envelope
from esper.leyline.envelope import Event, body_name, body_of
from esper.leyline.ids import text
from esper.leyline.names import meant
from esper.metric import figures_of_probe, figures_of_test
from projections.columns import BODIES
from projections.run_queries import EventReader


def headline(event: Event) -> str:
    """What happened, in one line without the event's type, for a person: blueprints by their names."""
    return one_line(with_names(headline_with_ids(event)))


def headline_with_ids(event: Event) -> str:
    """The same for a program: blueprints by their ids alone, as in all JSON."""
    name = body_name(event)
    describe = _HEADLINES.get(name)
    return describe(body_of(event)) if describe is not None else _fields(body_of(event))


def stage(number: int) -> str:
    """A lifecycle stage as people write it: TRAINING."""
    return _short(leyline_pb2.SeedLifecycleStage, number, "SEED_LIFECYCLE_STAGE_")


def gate(number: int) -> str:
    """A gate as people write it: G1 gradient health."""
    code, _, name = _short(leyline_pb2.SeedLifecycleGate, number, "SEED_LIFECYCLE_GATE_").partition("_")
    return f"{code} {name.lower().replace('_', ' ')}".strip()


def breaker_state(number: int) -> str:
    """A breaker's state as people write it: OPEN."""
    return _short(leyline_pb2.CircuitBreakerState, number, "CIRCUIT_BREAKER_STATE_")


def chosen(body: Any) -> str:
    """What a decision chose: germinate s1 BP009."""
    return body.actions[body.action] if body.action < len(body.actions) else f"action {body.action}"


def seed_of(event: Event) -> str:
    """The seed that an event is about; empty where it is about none or several."""
    body = body_of(event)
    fields = body.DESCRIPTOR.fields_by_name
    if "seed_id" in fields:
        return str(body.seed_id)
    if "target_seed_id" in fields:
        return str(body.target_seed_id)
    if body_name(event) == "decision_made" and body.actions:
        return next((word for word in chosen(body).split()[1:2]), "")
    if body_name(event) == "optimizer_changed" and body.group != "host":
        return str(body.group)
    return ""


def _short(enum: Any, number: int, prefix: str) -> str:
    return enum.Name(number).removeprefix(prefix) if number in enum.values() else str(number)


def _operation(number: int) -> str:
    return _short(leyline_pb2.SeedOperation, number, "SEED_OPERATION_").lower().replace("_", " ")


def _measurements(body: Any) -> str:
    parts = [f"{m.name} {m.value:.4g}{_limit(body.gate, m)}" for m in body.measurements]
    return f" [{', '.join(parts)}]" if parts else ""


def _limit(gate_number: int, measurement: Any) -> str:
    """How the figure must stand to its limit; of a figure that this Esper does not judge the limit alone."""
    if not measurement.HasField("limit"):
        return ""
    rule = rule_of(gate_number, measurement.name)
    return f" {SIGNS[rule]} {measurement.limit:.4g}" if rule else f" (limit {measurement.limit:.4g})"


def _run_started(body: Any) -> str:
    role = f", control of {body.control_of}" if body.control_of else ""
    role += f", {body.parent_run_id} with {body.fork_change!r}" if body.parent_run_id else ""
    probe = f", probed on {body.probe_samples:,} samples" if body.probe_samples else ""
    return (
        f"{body.task} on {body.device}, policy {body.policy}{role}: {body.params_host:,} parameters, "
        f"{body.epochs} epochs of {body.steps_per_epoch} steps, {len(body.sites)} sites{probe}"
    )


def _run_resumed(body: Any) -> str:
    void = ", what came after it is void" if body.superseded else ""
    return f"from the checkpoint of step {body.from_step}, after fact {body.accepted_sequence}{void}: {body.reason}"


def _run_finished(body: Any) -> str:
    why = f" ({body.reason})" if body.reason else ""
    tested = "".join(f"test {each.phrase}, " for each in figures_of_test(body) if each.known)
    unproven = f"; {' and '.join(body.unproven)} not proven" if body.unproven else ""
    return f"{body.status}{why}: {tested}{body.params_final:,} parameters{unproven}"


def _epoch_completed(body: Any) -> str:
    state = body.state
    live = ", ".join(
        f"{s.seed_id} {stage(s.stage)}" for s in body.seeds if s.stage != leyline_pb2.SEED_LIFECYCLE_STAGE_DORMANT
    )
    told = [f"loss {state.training_loss:.4f}", f"probe loss {state.validation_loss:.4f}"]
    told += [f"probe {each.phrase}" for each in figures_of_probe(body) if each.name != "loss"]
    return ", ".join(told) + (f"; {live}" if live else "")


def _decision_made(body: Any) -> str:
    told = f"{chosen(body)}: {body.reason}" if body.reason else chosen(body)
    strict = [each for each in body.verdicts if each.effect != "note"]
    if not strict:
        return told
    said = "; ".join(f"{each.evaluator} {each.effect}: {each.reason}" for each in strict)
    return f"{told} [risk, {'instead of ' + body.replaced if body.replaced else 'not binding'}: {said}]"


def _decision_timed_out(body: Any) -> str:
    return f"none came within {body.waited_ms / 1e3:.1f} s, and the run went on; one that comes later is rejected"


def _breaker_changed(body: Any) -> str:
    failures = f" after {body.failures} failures" if body.failures else ""
    moved = f"{body.breaker} {breaker_state(body.from_state)} -> {breaker_state(body.to_state)}{failures}"
    return moved + (f": {body.reason}" if body.reason else "")


def _conservative_mode_changed(body: Any) -> str:
    return ("entered" if body.entered else "left") + (f": {body.reason}" if body.reason else "")


def _adaptation_command(body: Any) -> str:
    if body.annotations.get("told"):
        return f"{body.annotations['told']} (from {body.issued_by})"
    if body.WhichOneof("payload") == "seed_operation":
        what = f"{_operation(body.seed_operation.operation)} {body.target_seed_id} {body.seed_operation.blueprint_id}"
    else:
        what = _short(leyline_pb2.CommandType, body.command_type, "COMMAND_TYPE_").lower()
    return f"{what.strip()} (from {body.issued_by})"


def _command_applied(body: Any) -> str:
    if body.told:
        return f"{body.told}, told by {body.origin}, in {body.apply_ms:.1f} ms"
    what = (
        _operation(body.operation)
        if body.operation
        else _short(leyline_pb2.CommandType, body.command_type, "COMMAND_TYPE_").lower()
    )
    return f"{what} {body.seed_id} {body.blueprint_id}".strip() + f" in {body.apply_ms:.1f} ms"


def _command_rejected(body: Any) -> str:
    return f"{body.reason}: {body.detail}" if body.detail else body.reason


def _seed_transitioned(body: Any) -> str:
    move = f"{body.seed_id} {stage(body.from_stage)} -> {stage(body.to_stage)}"
    blueprint = f", {body.blueprint_id}" if body.blueprint_id else ""
    return f"{move}{blueprint}" + (f": {body.reason}" if body.reason else "")


def _seed_absorbed(body: Any) -> str:
    blueprint = CATALOGUE.get(body.blueprint_id)
    units = "features of heads" if blueprint is not None and blueprint.sections > 1 else "units"
    wider = f"{body.site} has {body.units} {units} instead of {body.units_before}"
    return (
        f"{body.seed_id} is part of the host: {wider}, {body.parameters:,} parameters more; {body.opened} opens there"
    )


def _gate_evaluated(body: Any) -> str:
    verdict = "passed" if body.passed else "failed"
    why = f": {body.reason}" if body.reason else ""
    return f"{body.seed_id} {gate(body.gate)} {verdict}{why}{_measurements(body)}"


def _kernel_attached(body: Any) -> str:
    if body.form == "identity":
        return f"{body.blueprint_id} at {body.seed_id}: the identity, because its kernel cannot be used: {body.trouble}"
    origin = f"kernel {_brief(body.artifact_ref)} of the library" if body.artifact_ref else "built from its template"
    return (
        f"{body.blueprint_id} at {body.seed_id}: {body.module_parameters:,} parameters, "
        f"{body.flops_per_sample:,} FLOPs a sample, {origin}, {body.form}, in {body.attach_ms:.1f} ms"
    )


def _kernel_swapped(body: Any) -> str:
    return (
        f"{body.blueprint_id} at {body.seed_id}: {body.from_form} to {body.to_form}, "
        f"kernel {_brief(body.artifact_ref)}, outputs differ by {body.max_difference:.1e} at most"
    )


def _brief(reference: str) -> str:
    return reference.removeprefix("sha256:")[:12]


def _field_report(body: Any) -> str:
    outcome = _short(leyline_pb2.FieldReportOutcome, body.outcome, "FIELD_REPORT_OUTCOME_")
    metrics = ", ".join(f"{name} {value:+.4g}" for name, value in sorted(body.metrics.items()))
    notes = f" - {body.notes}" if body.notes else ""
    if body.decision_id:
        return f"{outcome} an epoch after a decision{f': {metrics}' if metrics else ''}{notes}"
    return (
        f"{outcome} after {body.observation_window_epochs} epochs with {body.blueprint_id} at {body.seed_id}"
        f"{f': {metrics}' if metrics else ''}{notes}"
    )


def _rolled_back(body: Any) -> str:
    if body.level == "rewind":
        return (
            f"{body.seed_id} rewound: its proof failed: step {body.from_step} -> {body.to_step}, "
            f"timeline {body.new_timeline}"
        )
    return f"{body.level}, {body.reason}: step {body.from_step} -> {body.to_step}, timeline {body.new_timeline}"


def _fields(body: Any) -> str:
    """The short fields of a body, by name: good enough for what has no sentence of its own."""
    parts = []
    for field, value in body.ListFields():
        if field.type == field.TYPE_MESSAGE or field.is_repeated:
            continue
        if field.type == field.TYPE_BYTES:
            shown = text(value) if len(value) == 16 else value.hex()[:16]
        elif field.type == field.TYPE_ENUM:
            shown = _short_enum(field, value)
        elif isinstance(value, float):
            shown = f"{value:.4g}"
        else:
            shown = str(value)
        parts.append(f"{field.name} {shown}")
    return ", ".join(parts)


def _short_enum(field: Any, number: int) -> str:
    known = field.enum_type.values_by_number.get(number)
    return known.name if known is not None else str(number)


_HEADLINES: Final[dict[str, Callable[[Any], str]]] = {
    "run_started": _run_started,
    "run_resumed": _run_resumed,
    "run_finished": _run_finished,
    "epoch_completed": _epoch_completed,
    "decision_made": _decision_made,
    "decision_timed_out": _decision_timed_out,
    "breaker_changed": _breaker_changed,
    "conservative_mode_changed": _conservative_mode_changed,
    "adaptation_command": _adaptation_command,
    "command_applied": _command_applied,
    "command_rejected": _command_rejected,
    "seed_transitioned": _seed_transitioned,
    "seed_absorbed": _seed_absorbed,
    "gate_evaluated": _gate_evaluated,
    "kernel_attached": _kernel_attached,
    "kernel_swapped": _kernel_swapped,
    "field_report": _field_report,
    "rolled_back": _rolled_back,
}


POLL_S: Final = 0.2


"""How often `--follow` looks for a newer manifest; the archive writes one within a second of every event."""


_TYPE_STYLES: Final = {
    "decision_made": CYAN,
    "adaptation_command": CYAN,
    "command_applied": GREEN,
    "command_rejected": RED,
    "seed_transitioned": YELLOW,
    "seed_absorbed": GREEN,
    "rolled_back": RED,
    "field_report": GREEN,
}


CHATTER: Final = frozenset((*KERNELS.bodies, *BLUEPRINTS.bodies))
"""What the library says of kernels: dozens of events before a run's first step, and none that it depends on."""


def types_of(names: Sequence[str], left_out: Collection[str] = ()) -> tuple[str, ...]:
    """The event types that a person named, for none all but `left_out`; raises InvalidInput for one that is none."""
    for name in names:
        if name not in BODIES:
            hint = meant(name, BODIES, f"the types are {', '.join(BODIES)}")
            raise InvalidInput(f"there is no event type {name!r}; {hint}")
    return tuple(names) or tuple(name for name in BODIES if name not in left_out)


def event_json(event: Event) -> dict[str, Any]:
    """An event as JSON types: ids in their text form, other bytes as hex, enums by name, times in nanoseconds."""
    name = envelope.body_name(event)
    message = _message(event)
    body = message.pop(name, {})
    return {"type": name, **message, "body": body}


def _message(message: Any) -> dict[str, Any]:
    return {field.name: _field(field, value) for field, value in message.ListFields()}


def _field(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {str(key): _single(inner, each) for key, each in value.items()}
    if field.is_repeated:
        return [_single(field, each) for each in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.type == field.TYPE_MESSAGE:
        if field.message_type.full_name == "google.protobuf.Timestamp":
            return value.ToJsonString()
        return _message(value)
    if field.type == field.TYPE_BYTES:
        return text(value) if len(value) == 16 else value.hex()
    if field.type == field.TYPE_ENUM:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    return value


def events_command(
    data_dir: Path, word: str, types: list[str], *, follow: bool, everything: bool, as_json: bool
) -> None:
    """A run's events in their order, and with `follow` those that come, until the run has finished.

    A person sees those of the library of kernels only with `everything`, a program always.
    """
    wanted = types_of(types, () if everything or as_json else CHATTER)
    run_id = await_run(data_dir, word, lambda: clients_of(data_dir)) if follow else word
    with history_of(data_dir) as history:
        reading = EventReader(history, find_run(history, run_id), wanted)
        for event in _events(reading, follow=follow):
            _say_event(event, as_json=as_json)


def _events(reading: EventReader, *, follow: bool) -> Iterator[Event]:
    yield from reading.new()
    while follow and not reading.finished():
        time.sleep(POLL_S)
        yield from reading.new()
    if follow:
        yield from reading.new()


def _say_event(event: Event, *, as_json: bool) -> None:
    if as_json:
        say_json(event_json(event))
        return
    name = body_name(event)
    place = styled(f"epoch {event.epoch:>3} step {event.global_step:>6}", DIM)
    say_hanging(f"{_clock(event)}  {place}  {styled_name(name)}{' ' * max(1, 26 - len(name))}", headline(event))


def _clock(event: Event) -> str:
    return f"{datetime.fromtimestamp(event.recorded_at_ns / 1e9, UTC):%H:%M:%S.%f}"[:-3]


def styled_name(name: str) -> str:
    """An event's type in its colour."""
    return styled(name, _TYPE_STYLES[name]) if name in _TYPE_STYLES else name
