"""Every record parsed once: its envelope and its body, still encoded, as columns, and which records are no event.

The rules are those of the contract: an id of 16 bytes, a schema version that this Esper reads, exactly one body that it
knows, on the topic of that body, and, where there are keys, a signature that holds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import ptars
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import DecodeError

from contracts.topics import BY_BODY
from esper.errors import ContractViolation
from esper.leyline import envelope
from esper.leyline.signing import KeyRing, ManyHeaders
from projections import decode_python
from projections.columns import BODIES, ENVELOPE
from projections.records import Batch
from projections.wire_schema import ENVELOPE_TWIN, Parts

NAMES: Final = tuple(BODIES)
"""The body types; `Split.kinds` has places in it."""

TOPIC_OF: Final = {body: topic.name for body, topic in BY_BODY.items()}

HANDLERS: Final = ptars.HandlerPool([ENVELOPE_TWIN.file], ptars.PtarsConfig(timestamp_unit="us"))

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Split:
    """The records of some batches: `parts` has the envelope's columns and one of encoded bodies per body type.

    `kinds` says which body type each record has, -1 where it is no event, and `reasons` why it is none, by its place;
    `raw` are the records' bytes as they were signed.
    """

    raw: pa.Array
    parts: Any
    kinds: npt.NDArray[np.int16]
    reasons: dict[int, str]

    def column(self, name: str, places: npt.NDArray[np.intp]) -> Any:
        """A column of `parts` at some places."""
        return self.parts.column(name).take(pa.array(places))

    def envelope(self) -> list[Any]:
        """The columns of the envelope."""
        return [self.parts.column(field.name) for field in ENVELOPE]

    def refuse(self, place: int, reason: str) -> None:
        """Note that a record is no event after all."""
        self.kinds[place] = -1
        self.reasons[place] = reason


def split(batches: Sequence[Batch], keys: KeyRing | None) -> Split:
    """The records of `batches` in their order; with `keys` every signature is verified."""
    signed = values = list(chain.from_iterable(batch.values for batch in batches))
    raw = decode_python.binary(values)
    parts, reasons = _parsed(values, raw)
    old = _old(parts, reasons)
    if old:
        values = [_todays(value) if place in old else value for place, value in enumerate(signed)]
        parts, _ = _parsed(values, pa.array(values, pa.binary()))
    found = Split(raw, parts, np.full(len(values), -1, np.int16), reasons)
    for place in _place_bodies(found, batches):
        if place not in reasons:
            _judge(found, place, values[place] or b"", _topic_at(batches, place))
    if keys is not None:
        headers = ManyHeaders.joined(batch.headers for batch in batches)
        stamps_ms = list(chain.from_iterable(batch.timestamps for batch in batches))
        recorded_at_ns = parts.column("recorded_at_ns").to_numpy()
        for place, reason in keys.refused(signed, headers, recorded_at_ns, stamps_ms):
            if place not in reasons:  # what is no event is named by what is wrong with it
                found.refuse(place, reason)
    return found


def _old(parts: Any, reasons: Mapping[int, str]) -> set[int]:
    """The places of events of an older schema that is read still; their columns are those of today's."""
    versions = parts.column("schema_version").to_numpy()
    places = np.flatnonzero((versions >= envelope.OLDEST_VERSION) & (versions < envelope.SCHEMA_VERSION))
    return {int(place) for place in places} - reasons.keys()


def _todays(value: bytes | None) -> bytes | None:
    """An event of an older schema as today's has it; one that is no event stays what it is."""
    try:
        return envelope.parse(value or b"").SerializeToString(deterministic=True)
    except ContractViolation:
        return value


def _parsed(values: list[bytes | None], array: pa.Array) -> tuple[Any, dict[int, str]]:
    """The parts of records, which `array` has too, and why some of them have none: there the parts are empty."""
    reasons = {} if all(values) else {place: "no value" for place, value in enumerate(values) if not value}
    handler = HANDLERS.get_for_message(Parts.DESCRIPTOR)
    try:
        return handler.array_to_record_batch(array), reasons
    except ValueError as error:
        refusal = error
    sound: list[bytes | None] = list(values)
    for place, value in enumerate(values):
        try:
            Parts.FromString(value or b"")
        except DecodeError as error:
            reasons[place] = f"not an event: {error}"
            sound[place] = None
    try:
        return handler.array_to_record_batch(pa.array(sound, pa.binary())), reasons
    except ValueError:
        _log.warning("ptars refuses %d records (%s): split in Python", len(values), refusal)
        return decode_python.parts([value or b"" for value in sound]), reasons


def _place_bodies(found: Split, batches: Sequence[Batch]) -> npt.NDArray[np.intp]:
    """Fill in the kinds of the records that keep every rule; the places of the others."""
    parts, kinds = found.parts, found.kinds
    bodies = np.zeros(len(kinds), np.int8)
    for kind, name in enumerate(NAMES):
        column = parts.column(name)
        if column.null_count < len(column):
            there = column.is_valid().to_numpy(zero_copy_only=False)
            bodies += there
            kinds[there] = kind
    topics = {name: index for index, name in enumerate(sorted(set(TOPIC_OF.values())))}
    expected = np.array([*(topics[TOPIC_OF[name]] for name in NAMES), -2])
    topic = np.repeat([topics.get(batch.topic, -1) for batch in batches], [len(batch) for batch in batches])
    lawful = (
        (bodies == 1)
        & (pc.binary_length(parts.column("event_id")).to_numpy() == 16)
        & (parts.column("schema_version").to_numpy() == envelope.SCHEMA_VERSION)
        & (parts.column("recorded_at_ns").to_numpy() <= envelope.LATEST_NS)
        & (expected[kinds] == topic)
    )
    kinds[~lawful] = -1
    return np.flatnonzero(~lawful)


def _judge(found: Split, place: int, value: bytes, topic: str) -> None:
    """Look closely at a record that seems to break a rule, and say which it is; two bodies on the wire break none."""
    parts = Parts.FromString(value)
    body = parts.WhichOneof("body")  # of two on the wire the last one counts
    breach = _breach(parts, body, topic)
    if breach is not None:
        found.refuse(place, breach)
    else:
        found.kinds[place] = NAMES.index(body)


def _breach(parts: Any, body: str | None, topic: str) -> str | None:
    """Which rule of the contract an event breaks, the most telling first."""
    if len(parts.event_id) != 16:
        return f"event_id has {len(parts.event_id)} bytes instead of 16"
    if parts.schema_version != envelope.SCHEMA_VERSION:
        return f"schema version {parts.schema_version}; this Esper reads {envelope.SCHEMA_VERSION}"
    if parts.recorded_at_ns > envelope.LATEST_NS:
        return f"recorded_at_ns is {parts.recorded_at_ns}, which is after the year 2262"
    if body is None:
        return "no body that this Esper knows"
    meant = envelope.topic_for(body, parts.priority).name
    return None if meant == topic else f"{body} belongs on {meant}, not on {topic}"


def _topic_at(batches: Sequence[Batch], place: int) -> str:
    for batch in batches:
        if place < len(batch):
            return batch.topic
        place -= len(batch)
    raise IndexError(place)
