"""Events that are signed and strange: none of them stops the archiver, and none makes a view fail for all others."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from contracts.leyline.v1 import event_pb2
from contracts.topics import BY_BODY
from esper.errors import ContractViolation
from esper.leyline import envelope
from projections import open_history
from projections.archive_writer import Archive
from projections.columns import BODIES
from projections.decode import decode
from projections.records import Batch, StoredRecord
from projections.registry import PROJECTIONS
from projections.store import Store

ODD_TEXTS = ("", "\0", "é😀", "{", "../x", "x" * 300)
ODD_FLOATS = (0.0, math.nan, math.inf, -math.inf, 1e38, 1.5)


def odd(field: Any, chance: random.Random) -> Any:
    """A value at an edge of what the field can hold."""
    kind = field.cpp_type
    if kind == field.CPPTYPE_STRING:
        return chance.choice([b"", b"\0\xff", b"x" * 300] if field.type == field.TYPE_BYTES else ODD_TEXTS)
    if kind in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        return chance.choice(ODD_FLOATS)
    if kind in (field.CPPTYPE_BOOL, field.CPPTYPE_ENUM):
        return chance.choice([0, 1] if kind == field.CPPTYPE_BOOL else [0, 1, 99, 2**31 - 1])
    signed = kind in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
    bits = 32 if kind in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
    most = 2 ** (bits - signed) - 1
    return chance.choice([0, 1, 7, most, -most - 1 if signed else most - 1])


def fill(message: Any, chance: random.Random, depth: int = 0) -> None:
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.3 or depth > 5:
            continue
        held = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
            for _ in range(chance.randrange(3)):
                if value.message_type is None:
                    held[odd(key, chance)] = odd(value, chance)
                else:
                    fill(held[odd(key, chance)], chance, depth + 1)
        elif field.message_type is not None:
            for each in [held.add() for _ in range(chance.randrange(3))] if field.is_repeated else [held]:
                each.SetInParent()
                fill(each, chance, depth + 1)
        elif field.is_repeated:
            held.extend(odd(field, chance) for _ in range(chance.randrange(3)))
        else:
            setattr(message, field.name, odd(field, chance))


def strange(body: str, chance: random.Random) -> event_pb2.Event:
    event = event_pb2.Event()
    getattr(event, body).SetInParent()
    fill(getattr(event, body), chance)
    for field in envelope_fields():
        setattr(event, field.name, odd(field, chance))
    event.event_id = chance.randbytes(16)
    event.schema_version = envelope.SCHEMA_VERSION
    if (holder := envelope.VERSIONED.get(body)) is not None:
        (getattr(getattr(event, body), holder) if holder else getattr(event, body)).version = 1
    if chance.random() < 0.7:
        event.run_id, event.incarnation, event.sequence = chance.choice(["r1", "r2"]), 1, chance.choice([1, 2, 2**63])
    return event


def envelope_fields() -> list[Any]:
    return [each for each in event_pb2.Event.DESCRIPTOR.fields if each.containing_oneof is None]


def test_no_strange_event_makes_a_view_fail(tmp_path: Path):
    """One from after the year 2262 made `runs`, and every other view, fail for ever."""
    chance, ends = random.Random(11), Counter[str]()
    records = []
    for body in [*BODIES] * 4:
        topic = BY_BODY[body].name
        at_ms = chance.choice([0, 2**63 - 1, -5, 1_700_000_000_000])
        value = strange(body, chance).SerializeToString()
        records.append(StoredRecord(topic, 0, ends[topic], at_ms, b"k", value, ()))
        ends[topic] += 1
    with Archive(tmp_path) as archive:
        assert archive.append(records).rows == len(records)
    with open_history(tmp_path) as history:
        assert history.damage == []
        found = history.connection.execute("SELECT view_name FROM duckdb_views() WHERE schema_name = 'main'").fetchall()
        views = [name for (name,) in found if not name.startswith(("duckdb_", "sqlite_", "pragma_"))]
        assert {"runs", "epochs", "events"} <= set(views)
        for name in views:
            history.execute(f'SELECT * FROM "{name}"').fetchall()


@pytest.mark.parametrize("name", sorted(PROJECTIONS))
def test_a_strange_event_costs_a_projection_itself(name):
    """One with a number that no column of the file holds ended the worker whenever it started."""
    projection, chance, ends = PROJECTIONS[name], random.Random(3), Counter[str]()
    records = []
    for body in [*BODIES] * 4:
        topic = BY_BODY[body].name
        value = strange(body, chance).SerializeToString()
        records.append(StoredRecord(topic, 0, ends[topic], 1_000, b"k", value, ()))
        ends[topic] += 1
    mine = [record for record in records if record.topic in {topic.name for topic in projection.sources}]
    with Store(projection, None, None) as store:
        taken = store.take(mine)

        assert set(taken.refused) <= {"unfit", "malformed"}  # malformed are those of a time after 2262
        assert taken.folded > taken.refused["unfit"]
        assert store.next_offsets == {(topic.name, 0): ends[topic.name] for topic in projection.sources}
        assert store.take(mine).folded == 0


def test_no_bytes_that_are_almost_an_event_stop_the_archiver():
    chance = random.Random(7)
    for body in [*BODIES] * 3:
        values = []
        for _ in range(4):
            raw = bytearray(strange(body, chance).SerializeToString())
            for _ in range(chance.randrange(3)):
                place = chance.randrange(len(raw))
                flipped = bytes([raw[place] ^ 1 << chance.randrange(8)]) + raw[place + 1 :]
                raw[place:] = chance.choice([raw[place + 1 :], b"", flipped])
                raw = raw or bytearray(b"x")
            values.append(bytes(raw))
        offsets = list(range(len(values)))
        tables = decode([Batch(BY_BODY[body].name, 0, offsets, offsets, [None] * 4, values, [()] * 4)])
        assert sum(table.num_rows for table in tables.values()) == 4


@pytest.mark.parametrize(("value", "told"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")])
def test_a_payload_with_a_number_that_json_has_not_is_kept(value, told):
    """One signed command with it stopped the archiver for ever."""
    event = event_pb2.Event(event_id=bytes(16), schema_version=1)
    event.adaptation_command.version = 1
    event.adaptation_command.rollback_payload.update({"to": {"steps": [1.5, value, None, "x", True]}})
    tables = decode([Batch("esper.commands", 0, [0], [0], [None], [event.SerializeToString()], [()])])

    (kept,) = tables["adaptation_command"]["rollback_payload"].to_pylist()
    assert kept == f'{{"to": {{"steps": [1.5, "{told}", null, "x", true]}}}}'


@pytest.mark.parametrize("damage", [(b"text", b"\xff\xfe\xff\xfe"), (b"text", b"te\x08\xff")])
def test_a_payload_that_is_torn_is_no_event(damage):
    event = event_pb2.Event(event_id=bytes(16), schema_version=1)
    event.adaptation_command.version = 1
    event.adaptation_command.rollback_payload.update({"abc": "text"})
    torn = event.SerializeToString().replace(*damage)
    tables = decode([Batch("esper.commands", 0, [0], [0], [None], [torn], [()])])

    assert list(tables) == ["invalid"]


def test_an_event_of_a_time_that_no_reader_can_hold_is_none():
    event = event_pb2.Event(event_id=bytes(16), schema_version=1, recorded_at_ns=envelope.LATEST_NS + 1)
    event.run_resumed.SetInParent()
    tables = decode([Batch("esper.runs", 0, [0], [0], [None], [event.SerializeToString()], [()])])

    assert tables["invalid"]["reason"].to_pylist() == [
        f"recorded_at_ns is {envelope.LATEST_NS + 1}, which is after the year 2262"
    ]
    with pytest.raises(ContractViolation, match="after the year 2262"):
        envelope.parse(event.SerializeToString())
