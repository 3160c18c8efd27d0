"""The same log seen by librdkafka, which most other tools are built on."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import ConfigResource, NewPartitions


def produce(brokers, topic, values, **options):
    """Sends, and waits until each is acknowledged."""
    failed = []
    producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": 2, **options})
    for number, value in enumerate(values):
        producer.produce(topic, value, key=b"%d" % number, on_delivery=lambda error, _: error and failed.append(error))
        producer.poll(0)
    left = producer.flush(20)
    assert (left, failed) == (0, [])


def consume(consumer, count, timeout_s=20.0):
    """The next `count` messages."""
    found, until = [], time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < until:
        for message in consumer.consume(500, 0.2):
            assert message.error() is None
            found.append(message)
    assert len(found) == count
    return found


def wait_for_leader(consumer, place, timeout_s=20.0):
    """Until the partition's leader takes records: of a new topic, any broker may know before any other."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            return consumer.get_watermark_offsets(place, timeout=2.0)
        except KafkaException:
            if time.monotonic() > until:
                raise
        time.sleep(0.02)


@pytest.fixture
def consumer(brokers, group_id):
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": group_id,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "heartbeat.interval.ms": 200,
        }
    )
    yield consumer
    consumer.close()


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec_passes_through(brokers, new_topic, consumer, codec):
    topic = new_topic()
    values = [b"%04d" % number * 20 for number in range(1000)]
    produce(brokers, topic, values, **{"compression.type": codec})
    consumer.assign([TopicPartition(topic, 0, 0)])
    assert [message.value() for message in consume(consumer, 1000)] == values


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_every_kind_of_acknowledgement(brokers, new_topic, consumer, acks):
    place = TopicPartition(new_topic(), 0, 0)
    wait_for_leader(consumer, place)  # what it refuses is sent again with an acknowledgement and is lost without one
    produce(brokers, place.topic, [b"v"] * 100, **{"acks": acks, "enable.idempotence": False})
    consumer.assign([place])
    assert len(consume(consumer, 100)) == 100


def test_a_group_reads_all_partitions_and_goes_on_where_it_committed(brokers, new_topic, consumer, group_id):
    topic = new_topic(4)
    produce(brokers, topic, [b"%d" % number for number in range(200)])
    consumer.subscribe([topic])
    first = consume(consumer, 200)
    assert sorted(int(message.value()) for message in first) == list(range(200))
    committed = consumer.commit(asynchronous=False)
    assert sum(place.offset for place in committed) == 200
    produce(brokers, topic, [b"new"])
    assert consume(consumer, 1)[0].value() == b"new"
    places = consumer.committed([TopicPartition(topic, number) for number in range(4)], timeout=10)
    assert sum(place.offset for place in places) == 200


def test_watermarks_and_times(brokers, new_topic, consumer):
    topic = new_topic()
    produce(brokers, topic, [b"v"] * 10)
    assert consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10) == (0, 10)
    consumer.assign([TopicPartition(topic, 0, 0)])
    written = consume(consumer, 10)[6].timestamp()[1]
    (place,) = consumer.offsets_for_times([TopicPartition(topic, 0, written)], timeout=10)
    assert place.offset <= 6
    (beyond,) = consumer.offsets_for_times([TopicPartition(topic, 0, written + 10**9)], timeout=10)
    assert beyond.offset < 0


def test_administration(brokers, admin, new_topic, consumer, group_id):
    topic = new_topic(2)
    produce(brokers, topic, [b"v"] * 50)
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(10)
    deadline = time.monotonic() + 10
    while len(admin.list_topics(topic, timeout=10).topics[topic].partitions) != 3:  # another broker hears of it later
        assert time.monotonic() < deadline
    (resource,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
    assert resource.result(10)["cleanup.policy"].value == "delete"
    consumer.subscribe([topic])
    consume(consumer, 50)
    consumer.commit(asynchronous=False)
    assert group_id in [group.group_id for group in admin.list_consumer_groups().result(10).valid]
    assert admin.describe_consumer_groups([group_id])[group_id].result(10).state.name == "STABLE"
    with pytest.raises(KafkaException, match=r"NON_EMPTY_GROUP|not empty"):
        admin.delete_consumer_groups([group_id])[group_id].result(10)
    consumer.unsubscribe()
    consumer.close()
    admin.delete_consumer_groups([group_id])[group_id].result(10)
    place = TopicPartition(topic, 0, 10)
    assert admin.delete_records([place])[place].result(10).low_watermark == 10
