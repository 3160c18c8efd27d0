"""The log's own time: it stamps what a topic asks it to, and nobody else can pretend that it did."""

from __future__ import annotations

import datetime as dt
import time

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.record.default_records import DefaultRecordBatch

from contracts.topics import TOPICS
from streams.broker.batch import checked, placed, stamped
from streams.broker.handlers.topics import TOPIC_ID
from streams.topics import ensure_topics

STAMPS = "message.timestamp.type"


@pytest.mark.asyncio
@pytest.mark.parametrize("compression", [None, "gzip"])
async def test_a_client_sees_the_logs_time_and_the_record_as_it_was_sent(raw, broker, compression):
    raw.create("t", message_timestamp_type="LogAppendTime")
    began = time.time_ns() // 1_000_000
    async with AIOKafkaProducer(bootstrap_servers=broker.address, compression_type=compression) as producer:
        sent = [
            await producer.send_and_wait("t", b"v" * 200, key=b"k", headers=[("signature", b"s")], timestamp_ms=forged)
            for forged in (1, 2**50)
        ]
    async with AIOKafkaConsumer(bootstrap_servers=broker.address, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition("t", 0)])
        got = [await consumer.getone() for _ in sent]
        (found,) = (await consumer.offsets_for_times({TopicPartition("t", 0): got[1].timestamp})).values()

    assert [(r.key, r.value, r.headers) for r in got] == [(b"k", b"v" * 200, (("signature", b"s"),))] * 2
    assert [r.timestamp_type for r in got] == [1, 1]
    assert all(began <= r.timestamp <= time.time_ns() // 1_000_000 for r in got)
    assert [m.timestamp for m in sent] == [r.timestamp for r in got]
    assert found.timestamp == got[1].timestamp


@pytest.mark.parametrize("codec", [0, 1])
def test_a_stamped_batch_is_whole_and_holds_the_same_records(batch_of, codec):
    records = batch_of(b"a" * 300, b"b", codec=codec, producer=(7, 0, 3))
    batch = stamped(records, checked(records, 1 << 20), 77_000)
    again = stamped(records, batch, 78_000)

    for header in (batch, again):
        data = placed(5, header) + records[61:]
        read = DefaultRecordBatch(bytearray(data))
        assert read.validate_crc()
        assert [(r.offset, r.value, r.timestamp) for r in read] == [
            (5, b"a" * 300, header.max_timestamp),
            (6, b"b", header.max_timestamp),
        ]
        assert (header.producer_id, header.base_sequence) == (7, 3)
        assert data[61:] == records[61:]


def test_a_producer_cannot_stamp_for_the_log(raw, batch_of):
    raw.create("theirs")
    raw.create("ours", message_timestamp_type="LogAppendTime")
    forged = bytearray(batch_of(b"x"))
    batch = stamped(bytes(forged), checked(bytes(forged), 1 << 20), 2**40)
    records = placed(0, batch) + bytes(forged[61:])

    assert raw.produce("theirs", records).error_code.name == "invalid_timestamp"
    taken = raw.produce("ours", records)
    assert abs(taken.log_append_time.timestamp() - time.time()) < 60


@pytest.mark.asyncio
async def test_our_topics_are_stamped_and_older_ones_are_altered_with_their_other_settings(raw, broker):
    older = TOPICS[0].name
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
    await admin.start()
    try:
        kept = {"retention.ms": "-1", "segment.bytes": "123456"}
        await admin.create_topics([NewTopic(older, 4, 1, topic_configs=kept)])
        await ensure_topics(broker.address)
        await ensure_topics(broker.address)
        found = {}
        for topic in TOPICS:
            (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name)])
            found[topic.name] = {entry[0]: entry[1] for entry in answer.resources[0][4]}
    finally:
        await admin.close()

    assert {configs[STAMPS] for configs in found.values()} == {"LogAppendTime"}
    assert {key: found[older][key] for key in kept} == kept
    assert {name: int(configs["retention.ms"]) for name, configs in found.items()} == {
        topic.name: topic.retention_ms for topic in TOPICS
    }


def alter(raw, api, version, topic, configs, *, validate_only=False):
    resource = {"resource_type": 2, "resource_name": topic, "configs": configs}
    return raw.ask(api, version, resources=[resource], validate_only=validate_only).responses[0]


def described(raw, topic, *names):
    keys = list(names) or None
    asked = [{"resource_type": 2, "resource_name": topic, "configuration_keys": keys}]
    answer = raw.ask(32, 3, resources=asked, include_synonyms=False, include_documentation=False)
    return {config.name: config.value for config in answer.results[0].configs}


def test_settings_are_altered_one_by_one_or_all_together_and_stay(host, broker, raw):
    raw.create("t", retention_ms="60000", segment_bytes="2048")
    one = {"name": STAMPS, "config_operation": 0, "value": "LogAppendTime"}
    none = {"name": "retention.ms", "config_operation": 1, "value": None}
    assert alter(raw, 44, 0, "t", [one]).error_code == 0
    assert described(raw, "t", STAMPS, "retention.ms") == {STAMPS: "LogAppendTime", "retention.ms": "60000"}
    assert alter(raw, 44, 0, "t", [none], validate_only=True).error_code == 0
    assert described(raw, "t", "retention.ms") == {"retention.ms": "60000"}
    assert alter(raw, 44, 0, "t", [none]).error_code == 0
    assert alter(raw, 33, 1, "t", [{"name": STAMPS, "value": "CreateTime"}]).error_code == 0
    broker.kill()
    raw = host.connect(host.start())

    assert described(raw, "t", STAMPS, "retention.ms", "segment.bytes") == {
        STAMPS: "CreateTime",
        "retention.ms": "604800000",
        "segment.bytes": "67108864",
    }


@pytest.mark.parametrize(
    ("topic", "config", "says"),
    [
        ("t", {"name": STAMPS, "config_operation": 0, "value": "Never"}, "knows CreateTime and LogAppendTime"),
        ("t", {"name": "min.insync.replicas", "config_operation": 0, "value": "2"}, "this broker knows cleanup.policy"),
        ("t", {"name": "cleanup.policy", "config_operation": 2, "value": "compact"}, "can be set and unset"),
        ("gone", {"name": STAMPS, "config_operation": 0, "value": "CreateTime"}, "topic gone does not exist"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_and_changes_nothing(raw, topic, config, says):
    raw.create("t", retention_ms="60000")
    before = described(raw, "t")
    answer = alter(raw, 44, 0, topic, [config])

    assert answer.error_code != 0
    assert says in answer.error_message
    assert described(raw, "t") == before


def test_whoever_asks_for_it_by_name_sees_a_topics_id(raw):
    raw.create("t")
    first = described(raw, "t", TOPIC_ID)[TOPIC_ID]
    again = described(raw, "t", TOPIC_ID)[TOPIC_ID]
    raw.ask(20, 3, topic_names=["t"], timeout=dt.timedelta(seconds=1))
    raw.create("t")

    assert first == again != described(raw, "t", TOPIC_ID)[TOPIC_ID]
    assert TOPIC_ID not in described(raw, "t")


def test_each_log_says_its_own_id(host, broker, raw, tmp_path):
    asked = raw.ask(3, 8, topics=None, allow_auto_topic_creation=False, include_cluster_authorized_operations=False,
                    include_topic_authorized_operations=False)  # fmt: skip
    written = (tmp_path / "log" / "cluster").read_text().strip()

    assert asked.cluster_id == written
    assert len(written) == 22
