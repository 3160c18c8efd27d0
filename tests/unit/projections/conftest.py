"""Random messages of any type, and small histories."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from contracts.leyline.v1 import event_pb2
from contracts.topics import BY_BODY
from esper.leyline.envelope import VERSIONED
from projections import open_history
from projections.archive_writer import Archive
from projections.columns import is_map
from projections.generated import history, records
from projections.history import History
from projections.records import StoredRecord


def _scalar(field: Any, chance: random.Random) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return "".join(chance.choice("abcéß ") for _ in range(chance.randrange(6)))
        case FieldDescriptor.TYPE_BYTES:
            return chance.randbytes(chance.choice([0, 16, 32]))
        case FieldDescriptor.TYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.TYPE_FLOAT | FieldDescriptor.TYPE_DOUBLE:
            return chance.choice([0.0, -1.5, 2.0**100, chance.random()])
        case FieldDescriptor.TYPE_ENUM:
            return chance.choice([0, 1, 2, 77])
        case _:
            whole = [-1, 2**31 - 1] if field.type == FieldDescriptor.TYPE_INT32 else [2**32 - 1]
            return chance.choice([0, 1, *whole])


def fill(message: Any, chance: random.Random) -> Any:
    """Give about three quarters of the fields values, also odd ones."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.75:
            _fill_field(message, field, chance)
    return message


def _fill_field(message: Any, field: Any, chance: random.Random) -> None:
    if is_map(field):
        value, entries = field.message_type.fields_by_name["value"], getattr(message, field.name)
        for key in "abc"[: chance.randrange(4)]:
            if value.message_type is None:
                entries[key] = _scalar(value, chance)
            else:
                fill(entries[key], chance)
    elif field.message_type is not None:
        _fill_message(getattr(message, field.name), field, chance)
    elif field.is_repeated:
        getattr(message, field.name).extend(_scalar(field, chance) for _ in range(chance.randrange(4)))
    else:
        setattr(message, field.name, _scalar(field, chance))


def _fill_message(value: Any, field: Any, chance: random.Random) -> None:
    if field.message_type.full_name == "google.protobuf.Struct":
        value.update({"step": 3, "why": {"names": ["é", 1, None, True]}})
    elif field.message_type.full_name == "google.protobuf.Timestamp":
        value.FromNanoseconds(chance.randrange(10**18))
    elif field.is_repeated:
        for _ in range(chance.randrange(3)):
            fill(value.add(), chance)
    else:
        value.SetInParent()
        fill(value, chance)


@pytest.fixture
def any_record() -> Callable[[str, int], StoredRecord]:
    """A record with a random body of the type asked for, the same for the same offset."""

    def make(body: str, offset: int) -> StoredRecord:
        chance = random.Random(f"{body}/{offset}")
        event = event_pb2.Event(
            event_id=chance.randbytes(16),
            run_id=f"run-{offset % 3}",
            producer="test",
            sequence=offset,
            recorded_at_ns=chance.randrange(2**63),
            schema_version=1,
        )
        getattr(event, body).SetInParent()
        fill(getattr(event, body), chance)
        if (holder := VERSIONED.get(body)) is not None:
            (getattr(getattr(event, body), holder) if holder else getattr(event, body)).version = 1
        headers = (("esper-key", b"0123abcd"), ("esper-signature", chance.randbytes(32)))
        return StoredRecord(BY_BODY[body].name, 0, offset, 1_000 + offset, b"run", event.SerializeToString(), headers)

    return make


@pytest.fixture(scope="session")
def small_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of five lawful runs, 6,000 events and a bit, in several flushes."""
    folder = tmp_path_factory.mktemp("small-history")
    made = list(records(history(5_500)))
    with Archive(folder) as archive:
        for start in range(0, len(made), 1_500):
            archive.append(made[start : start + 1_500])
    return folder


@pytest.fixture
def opened(small_history: Path) -> Iterator[History]:
    """The small history, open."""
    with open_history(small_history) as found:
        yield found
