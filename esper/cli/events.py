"""`esper events`: a run's events out of the archive, each once, in the order in which they were sent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.cli.describe import headline
from esper.cli.history import history_of, resolve, run_ids
from esper.cli.output import CYAN, DIM, GREEN, RED, YELLOW, say_hanging, say_json, styled
from esper.errors import InvalidInput
from esper.leyline import envelope
from esper.leyline.envelope import Event, body_name
from esper.leyline.ids import text

if TYPE_CHECKING:
    from projections.history import History

BATCH: Final = 2_000
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
    from projections.columns import BODIES  # noqa: PLC0415 - not needed for a command line that is wrong

    for name in names:
        if name not in BODIES:
            near = get_close_matches(name, BODIES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the types are {', '.join(BODIES)}"
            raise InvalidInput(f"there is no event type {name!r}; {hint}")
    return tuple(names) or tuple(BODIES)


class Reading:
    """One run's events of some types; every call of `new` gives those that were archived since the one before."""

    def __init__(self, history: History, run_id: str, types: Sequence[str]) -> None:
        self._history = history
        self._run_id = run_id
        self._types = types
        self._next: dict[tuple[str, int], int] = {}
        self._seen: set[bytes] = set()

    def new(self) -> Iterator[Event]:
        """What came since the last call."""
        self._history.refresh()
        held = [name for name in self._types if self._history.manifest.of(name)]
        if not held:
            return
        answer = self._history.connection.cursor().execute(self._query(held), [self._run_id] * len(held))
        while rows := answer.fetchmany(BATCH):
            for raw, topic, partition, offset in rows:
                place = (topic, partition)
                self._next[place] = max(self._next.get(place, 0), offset + 1)
                event = envelope.parse(raw)
                if event.event_id not in self._seen:
                    self._seen.add(event.event_id)
                    yield event

    def finished(self) -> bool:
        """Whether the run's end is in the archive, and nobody has gone on with the run since."""
        self._history.refresh()
        ended, resumed = (
            f"coalesce((select max(log_offset) from log.{name} where run_id = $1), -1)"  # noqa: S608  names of ours
            for name in ("run_finished", "run_resumed")
        )
        answer = self._history.connection.cursor().execute(f"select {ended} > {resumed}", [self._run_id])
        return answer.fetchone() == (True,)

    def _query(self, types: Sequence[str]) -> str:
        after = " or ".join(
            f"(log_topic = '{topic}' and log_partition = {partition} and log_offset < {offset})"
            for (topic, partition), offset in self._next.items()
        )
        newer = f" and not ({after})" if after else ""
        parts = [
            f'select log_raw, log_topic, log_partition, log_offset, log_timestamp_ms from log."{name}" '  # noqa: S608
            f"where run_id = ?{newer}"
            for name in types
        ]
        order = "order by log_timestamp_ms, log_topic, log_partition, log_offset"
        return f"select log_raw, log_topic, log_partition, log_offset from ({' union all '.join(parts)}) {order}"  # noqa: S608


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
        run_id = resolve(word, run_ids(history))
        reading = Reading(history, run_id, wanted)
        for event in _events(reading, follow=follow):
            _say_event(event, as_json=as_json)


def _events(reading: Reading, *, follow: bool) -> Iterator[Event]:
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
