"""Requests are read as kio would write them, and hostile bytes are refused without harm."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.index import load_response_schema
from kio.schema.errors import ErrorCode
from kio.serial import entity_reader, entity_writer

from streams.broker.connection import API_VERSIONS, APIS, PRODUCE, request_schema
from streams.broker.protocol import Malformed, _shapes, read_message, write_message, write_produced

READ = [(a.key, v) for a in APIS.values() if not a.unread for v in range(a.read_from, a.last + 1)]
NUMBERS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
TIME = st.integers(-(2**31), 2**31 - 1).map(lambda ms: dt.timedelta(milliseconds=ms))


def value(kind):
    """A strategy for one primitive of Kafka's schema."""
    if kind in NUMBERS:
        return st.integers(-(2 ** (NUMBERS[kind] - 1)), 2 ** (NUMBERS[kind] - 1) - 1)
    return {"string": st.text(max_size=20), "bytes": st.binary(max_size=40), "records": st.binary(max_size=40)}.get(
        kind, st.booleans() if kind == "bool" else TIME
    )


def message(entity):
    """A strategy for whole messages of a kio class."""
    fields = {}
    for shape in _shapes(entity):
        one = message(shape.entity) if shape.entity is not None else value(shape.kind)
        many = st.lists(one, max_size=3).map(tuple) if shape.array else one
        fields[shape.name] = st.one_of(st.none(), many) if shape.optional else many
    return st.builds(entity, **fields)


@pytest.mark.parametrize(("key", "version"), READ)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_what_kio_writes_is_read_back(key, version, data):
    """The reference for every version that is advertised is kio's own writer."""
    entity = request_schema(key, version)
    sent = data.draw(message(entity))
    buffer = io.BytesIO()
    entity_writer(entity)(buffer, sent)
    read = read_message(entity, buffer.getvalue(), 0)
    for field in dataclasses.fields(entity):
        if field.metadata.get("kafka_type") != "timedelta_i64":  # OffsetCommit's retention time, which nobody uses
            assert getattr(read, field.name) == getattr(sent, field.name)


@pytest.mark.parametrize(("key", "version"), READ)
@settings(max_examples=8, deadline=None)
@given(noise=st.binary(max_size=80))
def test_any_bytes_are_a_message_or_refused(key, version, noise):
    try:
        read_message(request_schema(key, version), noise, 0)
    except Malformed:
        return


@settings(max_examples=50, deadline=None)
@given(noise=st.binary(max_size=60), at=st.integers(0, 200), data=st.data())
def test_damaged_messages_are_a_message_or_refused(noise, at, data):
    """Closer to the truth than noise: a valid message with some bytes replaced."""
    entity = request_schema(*data.draw(st.sampled_from(READ)))
    buffer = io.BytesIO()
    entity_writer(entity)(buffer, data.draw(message(entity)))
    damaged = bytearray(buffer.getvalue())
    damaged[at % (len(damaged) + 1) : at % (len(damaged) + 1) + len(noise)] = noise
    try:
        read_message(entity, bytes(damaged), 0)
    except Malformed:
        return


def test_a_length_is_believed_only_as_far_as_there_are_bytes():
    """The bytes that abort the process in kio 0.6.5's own reader: an array of two billion topics."""
    with pytest.raises(Malformed, match="an array of 2147483647 where 0 bytes are left"):
        read_message(request_schema(3, 8), struct.pack(">i", 2**31 - 1), 0)


def test_null_is_refused_where_kafka_knows_none():
    with pytest.raises(Malformed, match=r"FindCoordinatorRequest\.key is null"):
        read_message(request_schema(10, 0), struct.pack(">h", -1), 0)


@pytest.mark.parametrize("version", range(3, 9))
@pytest.mark.parametrize(("stamp_ms", "why"), [(-1, None), (1_796_036_896_123, "nicht möglich"), (0, "")])
def test_a_response_to_produce_packed_by_hand_is_what_kio_writes(version, stamp_ms, why):
    stored = {"index": 3, "error_code": ErrorCode.none, "base_offset": 2**40, "log_start_offset": 7}
    refused = {"index": 0, "error_code": ErrorCode.kafka_storage_error, "base_offset": -1, "error_message": why}
    given = [{"name": "esper.rüns", "partition_responses": [stored, refused]}, {"name": "", "partition_responses": []}]
    time = None if stamp_ms < 0 else dt.datetime.fromtimestamp(stamp_ms / 1000, dt.UTC)
    by_kio = [
        topic | {"partition_responses": [each | {"record_errors": (), "log_append_time": time} for each in partitions]}
        for topic, partitions in ((topic, topic["partition_responses"]) for topic in given)
    ]
    stored["log_append_time"] = refused["log_append_time"] = stamp_ms
    expected = write_message(load_response_schema(PRODUCE, version), 77, {"responses": by_kio})

    assert write_produced(version, 77, {"responses": given}) == expected


@pytest.mark.parametrize("version", range(4))
def test_a_response_frame_carries_its_size_and_correlation(version):
    entity = load_response_schema(API_VERSIONS, version)
    frame = write_message(entity, 77, {"error_code": ErrorCode.none, "api_keys": [], "unknown": 1})
    assert struct.unpack_from(">ii", frame) == (len(frame) - 4, 77)
    read, _ = entity_reader(entity)(frame, 8)
    assert read.api_keys == ()
