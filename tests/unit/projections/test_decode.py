"""Records become columns, every one of them, and both decoders agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from contracts.leyline.v1 import event_pb2
from esper.errors import ContractViolation
from esper.leyline import envelope
from esper.leyline.envelope import VERSIONED
from esper.leyline.signing import KeyRing
from projections import archive_writer, columns, decode, decode_python, split
from projections.records import batches_of
from projections.wire_schema import Parts

BODIES = sorted(columns.BODIES)


def decode_records(records, keys: KeyRing | None = None) -> dict[str, Any]:
    return decode.decode(batches_of(records), keys)


def sorted_maps(value: Any) -> Any:
    """Maps in the order of their keys: only that may differ between the decoders."""
    if isinstance(value, list):
        inner = [sorted_maps(item) for item in value]
        return sorted(inner, key=repr) if inner and isinstance(inner[0], tuple) else inner
    if isinstance(value, dict):
        return {key: sorted_maps(item) for key, item in value.items()}
    return value


@pytest.mark.parametrize("body", BODIES)
def test_both_decoders_agree(body, any_record):
    """On random messages of every type, unknown enum numbers and absent parts included."""
    records = [any_record(body, offset) for offset in range(8)]
    parts = [Parts.FromString(record.value) for record in records]

    fast = decode_records(records)[body]
    envelopes = decode_python.parts([record.value for record in records]).select([f.name for f in columns.ENVELOPE])
    bodies = decode_python.bodies(body, [getattr(each, body) for each in parts])

    places = len(columns.LOG_COLUMNS)
    plain = pa.table([*envelopes.columns, *bodies], schema=pa.schema(list(fast.schema)[places:]))
    assert sorted_maps(plain.to_pylist()) == sorted_maps(fast.select(fast.column_names[places:]).to_pylist())


@pytest.mark.parametrize("table", columns.TABLES)
def test_a_file_has_the_declared_columns(table, any_record, tmp_path: Path):
    """What DuckDB finds in a file is what the empty view promises."""
    record = any_record(table if table in columns.BODIES else "run_started", 1)
    if table == columns.INVALID:
        record = replace(record, value=b"")
    path = tmp_path / "file.parquet"
    path.write_bytes(archive_writer.encode(decode_records([record])[table]))
    connection = duckdb.connect()
    declared = ", ".join(f'"{name}" {kind}' for name, kind in columns.duckdb_columns(table).items())
    connection.execute(f"CREATE TABLE declared ({declared})")

    promised = connection.execute("DESCRIBE declared").fetchall()
    found = connection.execute(f"DESCRIBE SELECT * FROM read_parquet('{path}')").fetchall()

    assert [row[:2] for row in promised] == [row[:2] for row in found]


def test_fields_that_clash_get_a_prefix():
    """An emergency signal has a run id of its own."""
    assert "body_run_id" in columns.duckdb_columns("emergency_signal")


def spoilt(any_record, **changes):
    record = any_record("run_resumed", 1)
    event = event_pb2.Event.FromString(record.value)
    for name, value in changes.items():
        setattr(event, name, value)
    return replace(record, value=event.SerializeToString())


def without_body(any_record):
    record = any_record("run_resumed", 1)
    event = event_pb2.Event.FromString(record.value)
    event.ClearField("run_resumed")
    return replace(record, value=event.SerializeToString())


def with_torn_body(any_record):
    """The envelope parses and the body does not: a string that claims more bytes than there are."""
    record = any_record("run_resumed", 1)
    event = event_pb2.Event.FromString(record.value)
    event.ClearField("run_resumed")
    return replace(record, value=event.SerializeToString() + b"\xaa\x01\x04\x1a\x09ab")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda any_record: replace(any_record("run_resumed", 1), value=None), "no value"),
        (lambda any_record: replace(any_record("run_resumed", 1), value=b""), "no value"),
        (lambda any_record: replace(any_record("run_resumed", 1), value=b"\xff\xff"), "not an event"),
        (lambda any_record: spoilt(any_record, event_id=b""), "event_id has 0 bytes instead of 16"),
        (lambda any_record: spoilt(any_record, schema_version=2), "schema version 2"),
        (without_body, "no body"),
        (with_torn_body, "not a run_resumed"),
        (lambda any_record: replace(any_record("run_resumed", 1), topic="esper.telemetry"), "belongs on esper.runs"),
    ],
)
def test_what_is_no_event_is_kept_with_the_reason(make, reason, any_record):
    """Beside a good one, which is not harmed."""
    good, bad = any_record("run_resumed", 7), make(any_record)

    tables = decode_records([bad, good])

    assert {name: table.num_rows for name, table in tables.items()} == {"invalid": 1, "run_resumed": 1}
    row = tables["invalid"].to_pylist()[0]
    assert reason in row["reason"]
    assert (bad.value, bad.offset, bad.key) == (row["log_raw"], row["log_offset"], row["log_key"])
    assert tables["run_resumed"]["log_offset"].to_pylist() == [7]


def with_version(record, body, version):
    """The record's event, its body's message being of another version."""
    event = event_pb2.Event.FromString(record.value)
    message = getattr(event, body)
    holder = VERSIONED[body]
    (getattr(message, holder) if holder else message).version = version
    return replace(record, value=event.SerializeToString())


@pytest.mark.parametrize("body", VERSIONED)
@pytest.mark.parametrize("version", [0, 2])
def test_a_message_of_another_version_is_kept_raw_with_the_reason(any_record, body, version):
    """R-LEY-6: nobody acts on it, and nothing is lost. `envelope.parse` refuses the same."""
    good, bad = any_record(body, 1), with_version(any_record(body, 2), body, version)

    tables = decode_records([bad, good])

    (row,) = tables["invalid"].to_pylist()
    assert f"of version {version}; this Esper reads 1" in row["reason"]
    assert row["log_raw"] == bad.value
    assert tables[body]["log_offset"].to_pylist() == [1]
    assert envelope.parse(good.value)
    with pytest.raises(ContractViolation, match=f"of version {version}"):
        envelope.parse(bad.value)


def test_an_epoch_without_a_state_packet_has_no_version_to_refuse(any_record):
    record = any_record("epoch_completed", 1)
    event = event_pb2.Event.FromString(record.value)
    event.epoch_completed.ClearField("state")

    assert list(decode_records([replace(record, value=event.SerializeToString())])) == ["epoch_completed"]


@pytest.mark.parametrize(("priority", "kept_as"), [(3, "telemetry_packet"), (4, "telemetry_packet"), (2, "invalid")])
def test_urgent_telemetry_belongs_on_the_emergency_topic(priority, kept_as, any_record):
    record = any_record("telemetry_packet", 1)
    event = event_pb2.Event.FromString(record.value)
    event.priority = priority
    urgent = replace(record, topic="esper.emergency", value=event.SerializeToString())

    assert set(decode_records([urgent])) == {kept_as}


def test_an_older_event_has_todays_columns_and_its_own_bytes(any_record, monkeypatch):
    """Among newer ones; its signature is of the bytes that it came in."""
    ring = KeyRing((bytes(32),))

    def signed(record):
        made = ring.sign(record.value)
        return replace(record, headers=(("esper-key", made.key_id.encode()), ("esper-signature", made.signature)))

    def longer(event):
        event.run_resumed.reason = f"why: {event.run_resumed.reason}"

    old = signed(spoilt(any_record, schema_version=1))
    new = signed(replace(spoilt(any_record, schema_version=2), offset=2))
    monkeypatch.setattr(envelope, "SCHEMA_VERSION", 2)
    monkeypatch.setattr("esper.leyline.envelope.UPCASTERS", {("run_resumed", 1): longer})
    tables = decode_records([old, new], ring)
    rows = tables["run_resumed"].to_pylist()

    then = event_pb2.Event.FromString(old.value).run_resumed.reason
    assert tables.keys() == {"run_resumed"}
    assert [row["schema_version"] for row in rows] == [2, 2]
    assert rows[0]["reason"] == f"why: {then}"
    assert [row["log_raw"] for row in rows] == [old.value, new.value]


def test_signatures_are_verified(any_record):
    """Signed by a key of the ring: an event. By another, not at all, or changed since: kept, and not believed."""
    ring, other = KeyRing((bytes(32),)), KeyRing((b"x" * 32,))
    plain = any_record("run_resumed", 1)

    def signed_by(keys: KeyRing, offset: int):
        signed = keys.sign(plain.value)
        headers = (("esper-key", signed.key_id.encode()), ("esper-signature", signed.signature))
        return replace(plain, offset=offset, headers=headers)

    bare = replace(plain, offset=3, headers=())
    changed = replace(signed_by(ring, 4), value=plain.value + b"\x12\x01x")

    tables = decode_records([signed_by(ring, 1), signed_by(other, 2), bare, changed], ring)

    assert tables["run_resumed"]["log_offset"].to_pylist() == [1]
    assert tables["invalid"]["log_offset"].to_pylist() == [2, 3, 4]
    assert tables["invalid"]["reason"].to_pylist() == ["invalid_signature", "missing_signature", "invalid_signature"]


def test_what_ptars_refuses_is_decoded_in_python(any_record, monkeypatch):
    """A defect of the fast decoder costs time and no event."""

    class Refusing:
        def get_for_message(self, _descriptor):
            return self

        def array_to_record_batch(self, _encoded):
            raise ValueError("not today")

    records = [any_record("seed_transitioned", offset) for offset in range(5)]
    expected = decode_records(records)["seed_transitioned"]
    monkeypatch.setattr(split, "HANDLERS", Refusing())
    monkeypatch.setattr(decode, "HANDLERS", Refusing())

    assert decode_records(records)["seed_transitioned"].to_pylist() == expected.to_pylist()


def test_of_two_bodies_the_last_counts(any_record):
    """As protobuf has it, so that every reader of the log sees the same event."""
    record = any_record("run_resumed", 1)
    both = replace(record, value=record.value + event_pb2.Event(run_finished={"status": "done"}).SerializeToString())

    assert event_pb2.Event.FromString(both.value).WhichOneof("body") == "run_finished"
    assert decode_records([record, both])["run_finished"]["status"].to_pylist() == ["done"]


def test_large_batches_keep_their_order(any_record):
    """Records come out as they went in."""
    records = [any_record("state_digested", offset) for offset in range(25_000)]

    table = decode_records(records)["state_digested"]

    assert table["log_offset"].to_pylist() == list(range(25_000))
