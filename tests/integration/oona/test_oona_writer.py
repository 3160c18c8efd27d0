"""The writer on a real log: order, back-pressure, shedding, priorities, and a broker that stalls or dies."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.topics import EMERGENCY, PARTITIONS, RUNS, TELEMETRY
from esper.errors import LogUnavailable
from esper.leyline.envelope import body_name
from streams.metrics import Metrics
from streams.reader import record_of
from streams.records import Refused, partition_of, verified
from streams.trainer_log import KafkaLog
from streams.writer import LogWriter


def records(address, ring, run_id, *topics):
    """The records of a run's partition with their log timestamps, in topic order."""

    async def collect():
        consumer = AIOKafkaConsumer(bootstrap_servers=address, enable_auto_commit=False, auto_offset_reset="earliest")
        await consumer.start()
        try:
            partitions = [TopicPartition(topic.name, partition_of(run_id.encode(), PARTITIONS)) for topic in topics]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            found = []
            for partition in partitions:
                while await consumer.position(partition) < ends[partition]:
                    for message in (await consumer.getmany(partition, timeout_ms=200)).get(partition, []):
                        record = record_of(message)
                        found.append((record, verified(record, ring)))
        finally:
            await consumer.stop()
        # The log is shared: another file's test may have left records on it whose signatures do not hold.
        return [(record, event) for record, event in found if not isinstance(event, Refused) and event.run_id == run_id]

    return asyncio.run(collect())


def test_facts_are_on_the_log_in_their_order_once_flush_returns(writer, events, read):
    for _ in range(500):
        writer.publish(events.fact())
    writer.flush()

    assert [event.sequence for event in read()] == list(range(1, 501))


def test_everything_goes_to_its_topic_and_is_counted(writer, events, log, ring, run_id, metrics):
    urgent = leyline_pb2.TelemetryPacket(source_subsystem="kasmina")
    writer.publish(events.fact())
    writer.publish(events.telemetry())
    writer.publish(events.make(urgent, priority=leyline_pb2.MESSAGE_PRIORITY_HIGH))
    writer.publish(events.make(urgent))
    writer.flush()
    deadline = time.monotonic() + 5
    while writer.depth and time.monotonic() < deadline:
        time.sleep(0.01)

    found = [
        (record.topic, body_name(event))
        for record, event in records(log.address, ring, run_id, RUNS, EMERGENCY, TELEMETRY)
    ]

    assert found == [
        ("esper.runs", "state_digested"),
        ("esper.emergency", "telemetry_packet"),
        ("esper.telemetry", "step_sampled"),
        ("esper.telemetry", "telemetry_packet"),
    ]
    assert metrics.value("esper_oona_publish_total", topic="esper.telemetry") == 2
    assert metrics.value("esper_oona_emergency_published_total") == 1
    assert metrics.value("esper_oona_publish_latency_seconds_count") == 4


def test_a_fact_waits_while_the_log_stalls_and_nothing_is_lost(own_log, ring, events, metrics, read):
    with LogWriter(own_log.address, ring, producer="trainer", metrics=metrics, kept_limit=100) as writer:
        facts = [events.fact() for _ in range(150)]
        done = threading.Event()

        def publish():
            for fact in facts:
                writer.publish(fact)
            done.set()

        with own_log.frozen():
            thread = threading.Thread(target=publish)
            thread.start()
            assert not done.wait(0.5)
            assert writer.depth == 100
        thread.join(10.0)
        writer.flush()

        assert done.is_set()
        assert writer.shed() == 0
        assert [event.sequence for event in read(address=own_log.address)] == list(range(1, 151))


@pytest.mark.requirement("R-TOL-36")
@pytest.mark.serial
def test_telemetry_is_shed_while_the_log_stalls_and_an_event_says_how_much(own_log, ring, events, metrics, read):
    with LogWriter(own_log.address, ring, producer="trainer", metrics=metrics, sheddable_limit=50) as writer:
        with own_log.frozen():
            started = time.monotonic()
            for _ in range(200):
                writer.publish(events.telemetry())
            assert time.monotonic() - started < 1.0, "telemetry never waits"
            assert writer.shed() == 150
        writer.publish(events.fact())
        writer.flush()
    found = read(address=own_log.address, topics=(TELEMETRY,))

    reports = [event.telemetry_shed for event in found if body_name(event) == "telemetry_shed"]
    assert sum(report.count for report in reports) == 150
    assert reports[-1].total == 150
    assert sum(body_name(event) == "step_sampled" for event in found) == 50
    assert metrics.value("esper_oona_publish_dropped_total") == 150
    told = [
        each for event in read(address=own_log.address, topics=(EMERGENCY,)) for each in event.telemetry_packet.events
    ]
    assert [(each.event_id, each.attributes["writer"]) for each in told] == [("oona.conservative_entered", "trainer")]
    assert "50 telemetry events waited" in told[0].description


@pytest.mark.requirement("R-TOL-28", "R-OONA-4")
def test_an_emergency_overtakes_the_facts_that_wait(own_log, ring, events, metrics, run_id):
    with LogWriter(own_log.address, ring, producer="trainer", metrics=metrics) as writer:
        with own_log.frozen():
            large = event_pb2.RunStarted(config_json="x" * 4_000)
            for _ in range(200):  # many batches of 64 KiB
                writer.publish(events.fact(large))
            time.sleep(0.2)
            writer.publish(events.emergency())
        writer.flush()
    found = records(own_log.address, ring, run_id, RUNS, EMERGENCY)

    handed_over = {record.topic: record.timestamp_ms for record, _ in found if record.topic == EMERGENCY.name}
    later = [record for record, _ in found if record.timestamp_ms > handed_over[EMERGENCY.name]]
    assert len(found) == 201
    assert len(later) > 100


def test_flush_says_in_one_line_that_the_log_does_not_answer_and_recovers_when_it_does(own_log, ring, events, metrics):
    with LogWriter(own_log.address, ring, producer="trainer", metrics=metrics) as writer:
        with own_log.frozen():
            writer.publish(events.fact())
            with pytest.raises(LogUnavailable, match=r"left 1 events unacknowledged for 0\.3 s") as raised:
                writer.flush(timeout_s=0.3)
            assert "\n" not in str(raised.value)
            assert own_log.address in str(raised.value)
        writer.flush()


def test_a_broker_that_is_killed_and_comes_back_has_every_fact_once_and_in_order(own_log, ring, events, metrics, read):
    with LogWriter(own_log.address, ring, producer="trainer", metrics=metrics) as writer:
        for round_ in range(3):
            for _ in range(200):
                writer.publish(events.fact())
            if round_ < 2:
                own_log.crash()
                for _ in range(50):
                    writer.publish(events.fact())
                own_log.restart()
        writer.flush()

    assert [event.sequence for event in read(address=own_log.address)] == list(range(1, 701))


def test_a_log_that_is_not_there_is_one_line_and_no_long_wait(ring, metrics):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    started = time.monotonic()

    with pytest.raises(LogUnavailable, match=f"the log at 127.0.0.1:{port} did not answer") as raised:
        LogWriter(f"127.0.0.1:{port}", ring, producer="trainer", metrics=metrics)

    assert "\n" not in str(raised.value)
    assert time.monotonic() - started < 5.0


def test_closing_while_the_log_is_away_takes_seconds_not_a_minute(own_log, ring, events):
    writer = LogWriter(own_log.address, ring, producer="trainer", metrics=Metrics())
    own_log.crash()
    writer.publish(events.fact())
    started = time.monotonic()

    writer.close(timeout_s=0.5)

    assert time.monotonic() - started < 5.0


def test_a_silent_log_is_trouble_until_it_answers_again(own_log, ring, metrics):
    with LogWriter(own_log.address, ring, producer="trainer", metrics=metrics) as writer:
        assert writer.trouble() is None
        own_log.crash()
        deadline = time.monotonic() + 15
        while writer.trouble() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "is silent for" in (writer.trouble() or "")
        own_log.restart()
        deadline = time.monotonic() + 15
        while writer.trouble() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert writer.trouble() is None


def test_a_fact_that_finds_no_room_for_thirty_seconds_stops_the_writer_in_one_line(
    own_log, ring, events, metrics, monkeypatch
):
    monkeypatch.setattr("streams.writer.UNAVAILABLE_AFTER_S", 0.3)
    with LogWriter(own_log.address, ring, producer="trainer", metrics=metrics, kept_limit=5) as writer:
        with own_log.frozen():
            for _ in range(5):
                writer.publish(events.fact())
            with pytest.raises(
                LogUnavailable, match=r"left 5 events unacknowledged for 0\.3 s.*disks not full"
            ) as raised:
                writer.publish(events.fact())
            writer.publish(events.emergency())
            assert writer.depth == 6, "an emergency is never kept out"
        writer.flush()
    assert "\n" not in str(raised.value)


@pytest.mark.serial
def test_closing_twice_is_closing_once(log, ring, run_id):
    trainer_log = KafkaLog(log.address, ring, run_id=run_id, metrics=Metrics())
    trainer_log.close()
    started = time.monotonic()
    trainer_log.close()
    trainer_log.writer.close()

    assert time.monotonic() - started < 0.5
