"""What a history gives back: the log, byte for byte, and a run's facts; a fork's begin with its ancestors'.

Nothing is copied when a run is forked. Its first fact names its parent, the last sequence that both share, and as its
cause the very fact; a reader that reads a run through this module reads the shared part too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from contracts.topics import COMMANDS, LOCAL, REPORTS
from esper.leyline import envelope
from esper.leyline.envelope import Event
from esper.leyline.signing import HEADER_KEY_ID, HEADER_SIGNATURE, Signed
from esper.record.accept import CLAIMS
from projections.columns import INVALID
from projections.records import StoredRecord

if TYPE_CHECKING:
    from projections.history import History

BATCH: Final = 2_000
_EVER: Final = 2**63 - 1
_FIELDS: Final = "log_topic, log_partition, log_offset, log_timestamp_ms, log_key, log_raw, log_headers"


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run's facts up to and with the offset `upto` of its partition; all of them for the run itself."""

    run_id: str
    upto: int = _EVER


def lineage(history: History, run_id: str) -> list[Stretch]:
    """The stretches that a run's history is made of, the oldest ancestor's first; one for a run that is no fork.

    An ancestor whose fact the archive does not have (an exported folder may lack it) contributes nothing.
    """
    stretches = [Stretch(run_id)]
    while (parent := _parent(history, stretches[0].run_id)) is not None and parent.run_id not in _ids(stretches):
        stretches.insert(0, parent)
    return stretches


def facts(history: History, run_id: str) -> Iterator[Event]:
    """Every fact of the run and of its ancestors, in the order in which a fold takes them."""
    return (event for *_, event in placed_facts(history, run_id))


def placed_facts(history: History, run_id: str) -> Iterator[tuple[int, int, Event]]:
    """The same, each with its partition and offset."""
    query = (
        "SELECT log_partition, log_offset, log_raw FROM log.facts WHERE run_id = ? AND log_offset <= ? "
        "ORDER BY log_partition, log_offset"
    )
    for stretch in lineage(history, run_id):
        for partition, offset, raw in _rows(history, query, [stretch.run_id, stretch.upto]):
            yield partition, offset, envelope.parse(raw)


def signed_facts(history: History, run_id: str) -> Iterator[tuple[Event, Signed]]:
    """Every fact of the run and of its ancestors, as it was signed, whether it counts or not.

    All of them: a stranger's column may call a fact something else than its bytes do.
    """
    query = "SELECT log_raw, log_headers FROM log.facts WHERE run_id = ?"
    for stretch in lineage(history, run_id):
        for raw, headers in _rows(history, query, [stretch.run_id]):
            yield envelope.parse(raw), _signed(raw, headers)


def inherited(history: History, run_id: str) -> Iterator[Event]:
    """The ancestors' events that are part of a fork's history: the facts shared, and what they answer and led to.

    A decision that the fork put another in the place of is not among them, nor a report on what came afterwards.
    """
    shared = [fact for fact in facts(history, run_id) if fact.run_id != run_id]
    yield from shared
    packets = {fact.event_id for fact in shared[:-1]}  # the last fact was answered by the fork itself, if it was one
    commands = {_command_of(fact) for fact in shared}
    query = "SELECT log_raw FROM log.every WHERE run_id = ? AND log_topic IN (?, ?) ORDER BY log_topic, log_offset"
    for stretch in lineage(history, run_id)[:-1]:
        for (raw,) in _rows(history, query, [stretch.run_id, COMMANDS.name, REPORTS.name]):
            event = envelope.parse(raw)
            if event.event_id in commands if event.HasField("adaptation_command") else event.correlation_id in packets:
                yield event


def _command_of(fact: Event) -> bytes:
    """The command that a fact is the answer to; empty for a fact that is none."""
    answers = (fact.command_applied.command_id, fact.command_rejected.command_id)
    return next((command_id for command_id in answers if command_id), b"")


def requests(history: History, run_id: str) -> Iterator[tuple[Event, Signed]]:
    """Every decision and command for the run and for its ancestors, as it was signed, in the order of the log.

    An ancestor's are all there, those after the fork too: the facts say which of them the run followed.
    """
    query = "SELECT log_raw, log_headers FROM log.every WHERE run_id = ? AND log_topic = ? ORDER BY log_offset"
    for stretch in lineage(history, run_id):
        for raw, headers in _rows(history, query, [stretch.run_id, COMMANDS.name]):
            yield envelope.parse(raw), _signed(raw, headers)


def commands_told(history: History, run_id: str, first: int) -> list[Signed]:
    """The commands of people to a run that lie beside no log, from this offset on."""
    query = (
        "SELECT log_raw, log_headers FROM log.adaptation_command WHERE run_id = ? AND log_partition = ? "
        "AND log_offset >= ? AND producer = 'person' ORDER BY log_offset"
    )
    return [_signed(raw, headers) for raw, headers in _rows(history, query, [run_id, LOCAL, first])]


def claims_between(history: History, run_id: str, partition: int, first: int, end: int) -> list[StoredRecord]:
    """The claims to a run at the offsets `[first, end)` of a partition, in the order of the log."""
    claims = " UNION ALL ".join(f"SELECT {_FIELDS}, run_id FROM log.{name}" for name in sorted(CLAIMS))  # noqa: S608  ours
    query = f"SELECT {_FIELDS} FROM ({claims}) WHERE run_id = ? AND log_partition = ?"  # noqa: S608  as above
    order = "AND log_offset >= ? AND log_offset < ? ORDER BY log_offset"
    return [_stored(row) for row in _rows(history, f"{query} {order}", [run_id, partition, first, end])]


def _ids(stretches: Sequence[Stretch]) -> set[str]:
    return {stretch.run_id for stretch in stretches}


def _parent(history: History, run_id: str) -> Stretch | None:
    """The stretch of the parent that a fork shares; None for a run that is no fork."""
    query = (
        "SELECT parent_run_id, parent_sequence, causation_id FROM log.run_started WHERE run_id = ? ORDER BY log_offset"
    )
    row = history.cursor(query, [run_id]).fetchone()
    if row is None or not row[0]:
        return None
    query = "SELECT log_offset FROM log.facts WHERE run_id = ? AND sequence = ? ORDER BY event_id = ? DESC, log_offset"
    shared = history.cursor(query, [*row]).fetchone()
    return None if shared is None else Stretch(row[0], shared[0])


def _rows(history: History, query: str, parameters: list[Any]) -> Iterator[tuple[Any, ...]]:
    answer = history.cursor(query, parameters)
    while rows := answer.fetchmany(BATCH):
        yield from rows


def _signed(raw: bytes, headers: Sequence[Any]) -> Signed:
    named = {header["key"]: header["value"] for header in headers}
    key_id = named.get(HEADER_KEY_ID)
    return Signed(raw, key_id.decode("utf-8", "replace") if key_id else None, named.get(HEADER_SIGNATURE))


def stored_records(history: History) -> Iterator[StoredRecord]:
    """Every record that the archive holds, valid or not."""
    every, invalid = f"SELECT {_FIELDS} FROM log.every", f"SELECT {_FIELDS} FROM log.{INVALID}"  # noqa: S608  ours
    cursor = history.cursor(f"{every} UNION ALL {invalid} ORDER BY log_topic, log_partition, log_offset")
    while rows := cursor.fetchmany(BATCH):
        yield from map(_stored, rows)


def _stored(row: tuple[Any, ...]) -> StoredRecord:
    topic, partition, offset, timestamp_ms, key, value, headers = row
    pairs = tuple((header["key"], header["value"]) for header in headers)
    return StoredRecord(topic, partition, offset, timestamp_ms, key, value, pairs)
