"""An event on its way to a record and back: key, partition, deterministic bytes, signature headers."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.topics import PARTITIONS
from esper.errors import ContractViolation
from esper.leyline.envelope import new_event
from esper.leyline.signing import KeyRing, Signed, arrival_ns
from streams.records import Record, Refused, headers_of, outgoing, partition_of, signed_of, verified, verified_history

RING = KeyRing((b"k" * 32,))


def event(body, **fields):
    defaults = {"event_id": bytes(range(16)), "run_id": "run-a", "producer": "trainer", "recorded_at_ns": 1}
    return new_event(body, **{**defaults, **fields})


def recorded(signed, *, timestamp_ms=0, stamped=False):
    return Record("esper.runs", 0, 0, timestamp_ms, signed, stamped)


@pytest.mark.parametrize(
    ("body", "topic", "key"),
    [
        (event_pb2.RunStarted(task="digits"), "esper.runs", b"run-a"),
        (event_pb2.DecisionMade(), "esper.commands", b"run-a"),
        (leyline_pb2.FieldReport(), "esper.reports", b"run-a"),
        (event_pb2.StepSampled(), "esper.telemetry", b"run-a"),
        (event_pb2.SecurityViolation(), "esper.emergency", b"run-a"),
        (event_pb2.ArtifactStored(blueprint_id="BP009"), "esper.blueprints", b"BP009"),
        (leyline_pb2.BSDSIssued(bsds=leyline_pb2.BSDS(blueprint_id="BP010")), "esper.blueprints", b"BP010"),
        (leyline_pb2.KernelPrefetchRequest(blueprint_id="BP011"), "esper.kernels", b"BP011"),
        (event_pb2.PolicyPromoted(policy_id="p1"), "esper.policies", b"p1"),
        (event_pb2.DeadLettered(topic="esper.runs"), "esper.deadletter", b"esper.runs"),
    ],
)
def test_every_topic_is_keyed_as_the_topic_table_says(body, topic, key):
    record = outgoing(event(body))

    assert (record.topic, record.key) == (topic, key)


def test_an_event_of_no_run_is_keyed_by_who_says_it():
    assert outgoing(event(event_pb2.AlertFired(), run_id="", producer="nissa")).key == b"nissa"


@pytest.mark.requirement("R-TAM-57", "R-OONA-3")
@pytest.mark.parametrize(
    ("priority", "topic"),
    [
        (leyline_pb2.MESSAGE_PRIORITY_LOW, "esper.telemetry"),
        (leyline_pb2.MESSAGE_PRIORITY_NORMAL, "esper.telemetry"),
        (leyline_pb2.MESSAGE_PRIORITY_HIGH, "esper.emergency"),
        (leyline_pb2.MESSAGE_PRIORITY_CRITICAL, "esper.emergency"),
    ],
)
def test_urgent_telemetry_takes_the_emergency_topic(priority, topic):
    assert outgoing(event(leyline_pb2.TelemetryPacket(), priority=priority)).topic == topic


def test_the_same_event_always_has_the_same_bytes_whatever_order_its_maps_were_filled_in():
    words = {f"metric{index}": index / 7 for index in range(50)}
    packets = [
        leyline_pb2.SystemStatePacket(training_metrics=dict(items))
        for items in (words.items(), reversed(words.items()))
    ]

    first, second = (outgoing(event(event_pb2.EpochCompleted(state=packet))).payload for packet in packets)

    assert first == second


@pytest.mark.requirement("R-OONA-20", "R-SEC-14")
def test_an_event_above_the_limit_is_refused_before_it_is_sent():
    body = event_pb2.DecisionMade(observation=bytes(256 * 1024))

    with pytest.raises(ContractViolation, match=r"decision_made .* put its large part into the object store"):
        outgoing(event(body))


@given(st.binary(min_size=1, max_size=40))
def test_a_key_has_the_partition_that_kafka_clients_give_it(key):
    partitions = list(range(PARTITIONS))

    assert partition_of(key, PARTITIONS) == DefaultPartitioner()(key, partitions, partitions)


@pytest.mark.parametrize("form", [tuple, list, dict])
def test_a_signature_survives_the_headers_of_any_client(form):
    payload = outgoing(event(event_pb2.RunStarted())).payload
    headers = form(headers_of(RING.sign(payload)))

    assert verified(recorded(signed_of(payload, headers)), RING) == event(event_pb2.RunStarted())


@given(st.integers(min_value=0), st.integers(0, 7))
def test_any_changed_bit_of_a_record_is_refused(position, bit):
    payload = bytearray(outgoing(event(event_pb2.RunStarted(task="digits", config_json="{}"))).payload)
    headers = headers_of(RING.sign(bytes(payload)))
    payload[position % len(payload)] ^= 1 << bit

    refused = verified(recorded(signed_of(bytes(payload), headers)), RING)

    assert isinstance(refused, Refused)
    assert refused.reason == "invalid_signature"


@pytest.mark.requirement("R-SEC-10")
@pytest.mark.parametrize(
    ("signed", "reason"),
    [
        (Signed(outgoing(event(event_pb2.RunStarted())).payload), "missing_signature"),
        (Signed(b"no event at all"), "missing_signature"),
        (KeyRing((b"x" * 32,)).sign(outgoing(event(event_pb2.RunStarted())).payload), "invalid_signature"),
        (RING.sign(b"no event at all"), "malformed"),
    ],
)
def test_a_record_without_a_good_signature_or_event_says_why_it_is_refused(signed, reason):
    refused = verified(recorded(signed), RING)

    assert isinstance(refused, Refused)
    assert refused.reason == reason


@pytest.mark.parametrize("version", [0, 2])
def test_a_signed_record_with_a_message_of_another_version_is_refused(version):
    """R-LEY-6: an agent gives it to the dead-letter topic, as it does with what is no event."""
    report = RING.sign(outgoing(event(leyline_pb2.FieldReport(version=version))).payload)

    refused = verified(recorded(report), RING)

    assert isinstance(refused, Refused)
    assert (refused.reason, f"version {version}" in refused.detail) == ("malformed", True)


def test_a_record_without_a_value_is_refused():
    assert isinstance(verified(recorded(signed_of(None, None)), RING), Refused)


RETIRED_S = 1_000
OLD = b"o" * 32
ROTATED = KeyRing((b"k" * 32,), retired={OLD: RETIRED_S * 10**9})
BEFORE_MS, AFTER_MS = (RETIRED_S - 1) * 1_000, (RETIRED_S + 1) * 1_000


@pytest.mark.parametrize(
    ("stamp", "live", "history"),
    [
        ({"timestamp_ms": BEFORE_MS, "stamped": True}, True, True),
        ({"timestamp_ms": AFTER_MS, "stamped": True}, False, False),
        ({"timestamp_ms": BEFORE_MS}, False, True),  # of a log that did not stamp yet: the producer says so alone
        ({"timestamp_ms": AFTER_MS}, False, False),
    ],
)
def test_a_retired_key_vouches_for_what_arrived_before_it_was_retired_whatever_the_event_says(stamp, live, history):
    """An event dated back by whoever has the old key: its own time says nothing to a process that acts on it."""
    dated_back = event(event_pb2.RunResumed(), recorded_at_ns=1)
    record = recorded(KeyRing((OLD,)).sign(outgoing(dated_back).payload), **stamp)

    assert (verified(record, ROTATED) == dated_back) is live
    assert (verified_history(record, ROTATED) == dated_back) is history


def test_a_stamp_counts_within_what_the_readers_own_clock_allows():
    """A log whose clock is behind cannot bring an old key back for a process that reads from the log's end on."""
    signed = KeyRing((OLD,)).sign(outgoing(event(event_pb2.RunResumed())).payload)
    behind = recorded(signed, timestamp_ms=BEFORE_MS, stamped=True)

    assert not isinstance(verified(behind, ROTATED, since_ns=(RETIRED_S - 2) * 10**9), Refused)
    assert isinstance(verified(behind, ROTATED, since_ns=RETIRED_S * 10**9), Refused)
    assert arrival_ns(10**6, now_ns=5) == 5, "nothing arrived in the future"
    assert arrival_ns(None, now_ns=5) == 5
