"""Records of the log become columns: one Arrow table per body type, and one of the records that are no valid event.

The split parses every record once with the twin message (bodies stay encoded), then ptars turns the envelopes and the
bodies of one type into columns together: 2 to 3 µs an event against 5 to 10 in plain Python. What ptars will not take
is decoded by `decode_python`, which must give the same values, and what protobuf will not take is kept raw in the table
`invalid` with the reason. No record is ever left out.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

import ptars
import pyarrow as pa
from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from contracts.topics import BY_BODY, RUNS
from esper.leyline.envelope import SCHEMA_VERSION
from esper.leyline.signing import HEADER_KEY_ID, HEADER_SIGNATURE, KeyRing
from projections import decode_python
from projections.columns import BODIES, INVALID, STRUCT, arrow_schema
from projections.records import Record
from projections.regularity import Regularity
from projections.rows import Group, invalid_table, log_columns, struct_json
from projections.twin import ENVELOPE_TWIN, Parts, twin_of

CHUNK: Final = 10_000
"""Records decoded together: larger chunks are slower (more live objects), smaller ones pay more per call."""

_log = logging.getLogger(__name__)
_handlers = ptars.HandlerPool([ENVELOPE_TWIN.file], ptars.PtarsConfig(timestamp_unit="us"))
_TOPIC_OF: Final = {body: topic.name for body, topic in BY_BODY.items()}


def decode(
    records: Sequence[Record], keys: KeyRing | None = None, regularity: Regularity | None = None
) -> dict[str, pa.Table]:
    """`records` as one table per body type that occurs, plus `invalid`; every record is in exactly one of them.

    With `keys` every signature is verified. `regularity` remembers the records before these. Rows keep the order of
    `records`.
    """
    regularity = regularity or Regularity()
    tables: dict[str, list[pa.Table]] = {}
    for start in range(0, len(records), CHUNK):
        for name, table in _decode_chunk(records[start : start + CHUNK], keys, regularity).items():
            tables.setdefault(name, []).append(table)
    return {name: pa.concat_tables(parts) for name, parts in tables.items()}


def _decode_chunk(records: Sequence[Record], keys: KeyRing | None, regularity: Regularity) -> dict[str, pa.Table]:
    was_enabled = gc.isenabled()
    gc.disable()  # a chunk makes many objects and no cycles: collecting in the middle costs up to a quarter of the time
    try:
        groups, invalid = _split(records, keys, regularity)
        tables: dict[str, pa.Table] = {}
        fact_refused = False
        for name, group in groups.items():
            table, refused = _columns(name, group)
            invalid += refused
            fact_refused = fact_refused or (bool(refused) and name in RUNS.bodies)
            if table.num_rows:
                tables[name] = table
        if fact_refused:  # then what followed it in its run was taken for regular and is not
            regularity.forget()
            tables = {name: _irregular(table) if name in RUNS.bodies else table for name, table in tables.items()}
        if invalid:
            tables[INVALID] = invalid_table(invalid)
        return tables
    finally:
        if was_enabled:
            gc.enable()


def _irregular(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("log_regular")
    return table.set_column(place, table.schema.field(place), pa.array([False] * table.num_rows, pa.bool_()))


def _split(
    records: Iterable[Record], keys: KeyRing | None, regularity: Regularity
) -> tuple[dict[str, Group], list[tuple[Record, str]]]:
    groups: dict[str, Group] = {}
    invalid: list[tuple[Record, str]] = []
    parse, facts = Parts.FromString, RUNS.name
    for record in records:
        value = record.value
        if not value:
            invalid.append((record, "no value"))
            continue
        try:
            parts = parse(value)
        except DecodeError as error:
            invalid.append((record, f"not an event: {error}"))
            continue
        body = parts.WhichOneof("body")
        if (
            body is None
            or len(parts.event_id) != 16
            or parts.schema_version != SCHEMA_VERSION
            or _TOPIC_OF[body] != record.topic
        ):
            invalid.append((record, _breach(parts, body, record.topic)))
            continue
        if keys is not None and (breach := _unsigned(record, value, keys, parts.recorded_at_ns)):
            invalid.append((record, breach))
            continue
        group = groups.get(body)
        if group is None:
            group = groups[body] = Group()
        group.records.append(record)
        group.bodies.append(getattr(parts, body))
        group.regular.append(regularity.take(parts, body, record.partition) if record.topic == facts else None)
    return groups, invalid


def _breach(parts: Any, body: str | None, topic: str) -> str:
    """Which rule of the contract an event breaks, the most telling first."""
    if len(parts.event_id) != 16:
        return f"event_id has {len(parts.event_id)} bytes instead of 16"
    if parts.schema_version != SCHEMA_VERSION:
        return f"schema version {parts.schema_version}; this Esper reads {SCHEMA_VERSION}"
    if body is None:
        return "no body that this Esper knows"
    return f"{body} belongs on {_TOPIC_OF[body]}, not on {topic}"


def _unsigned(record: Record, value: bytes, keys: KeyRing, recorded_at_ns: int) -> str | None:
    headers = dict(record.headers)
    key_id = headers.get(HEADER_KEY_ID)
    name = key_id.decode("utf-8", "replace") if key_id else None
    return keys.check(value, name, headers.get(HEADER_SIGNATURE), recorded_at_ns)


def _columns(name: str, group: Group) -> tuple[pa.Table, list[tuple[Record, str]]]:
    """The table of one body type, and what of it protobuf refuses."""
    try:
        return _with_ptars(name, group), []
    except ValueError:
        sound, refused = _sift(name, group)
    try:
        return _with_ptars(name, sound), refused
    except ValueError as error:
        _log.warning("ptars refuses %s (%s): decoded in Python", name, error)
        return decode_python.table(name, sound), refused


def _sift(name: str, group: Group) -> tuple[Group, list[tuple[Record, str]]]:
    """The records whose body protobuf can read, and the others with the reason."""
    parse = message_factory.GetMessageClass(BODIES[name]).FromString
    sound, refused = Group(), []
    for record, body, regular in zip(group.records, group.bodies, group.regular, strict=True):
        try:
            parse(body)
        except DecodeError as error:
            refused.append((record, f"not a {name}: {error}"))
        else:
            sound.records.append(record)
            sound.bodies.append(body)
            sound.regular.append(regular)
    return sound, refused


def _with_ptars(name: str, group: Group) -> pa.Table:
    payloads = [record.value for record in group.records]
    envelope = _handlers.get_for_message(ENVELOPE_TWIN).list_to_record_batch(payloads)
    body = _handlers.get_for_message(twin_of(BODIES[name].full_name)).list_to_record_batch(group.bodies)
    columns = [*body.columns]
    for index, own in enumerate(BODIES[name].fields):
        if own.message_type is not None and own.message_type.full_name == STRUCT:
            columns[index] = _json_column(columns[index])
    return pa.table(
        [*log_columns(name, group.records, group.regular), *envelope.columns, *columns], schema=arrow_schema(name)
    )


def _json_column(encoded: pa.Array) -> pa.Array:
    return pa.array([struct_json(item) for item in encoded.to_pylist()], pa.string())
