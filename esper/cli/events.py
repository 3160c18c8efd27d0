"""`esper events`: a run's events out of the archive, each once, in the order in which they were sent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from esper.cli.describe import headline
from esper.cli.history import find_run, history_of
from esper.cli.output import CYAN, DIM, GREEN, RED, YELLOW, say_hanging, say_json, styled
from esper.errors import InvalidInput
from esper.leyline import envelope
from esper.leyline.envelope import Event, body_name
from esper.leyline.ids import text
from projections.columns import BODIES
from projections.run_queries import EventReader

POLL_S: Final = 0.2
"""How often `--follow` looks for a newer manifest; the archive writes one within a second of every event."""
_TYPE_STYLES: Final = {
    "decision_made": CYAN,
    "adaptation_command": CYAN,
    "command_applied": GREEN,
    "command_rejected": RED,
    "seed_transitioned": YELLOW,
    "rolled_back": RED,
    "field_report": GREEN,
}


def types_of(names: Sequence[str]) -> tuple[str, ...]:
    """The event types that a person named, all of them for none; raises InvalidInput for one that does not exist."""
    for name in names:
        if name not in BODIES:
            near = get_close_matches(name, BODIES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the types are {', '.join(BODIES)}"
            raise InvalidInput(f"there is no event type {name!r}; {hint}")
    return tuple(names) or tuple(BODIES)


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


def events_command(data_dir: Path, word: str, types: list[str], *, follow: bool, as_json: bool) -> None:
    """A run's events in their order, and with `follow` those that come, until the run has finished."""
    wanted = types_of(types)
    with history_of(data_dir) as history:
        run_id = find_run(history, word)
        reading = EventReader(history, run_id, wanted)
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
