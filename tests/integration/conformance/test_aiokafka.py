"""What Esper's own clients do, with the client that they use."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def running(client):
    """A client between its start and its stop."""
    await client.start()
    try:
        yield client
    finally:
        await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())


def producer(brokers, **options):
    return running(
        AIOKafkaProducer(bootstrap_servers=brokers, **{"linger_ms": 0, "enable_idempotence": True, **options})
    )


def reader(brokers, *topics, **options):
    settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "fetch_max_wait_ms": 100}
    return running(AIOKafkaConsumer(*topics, bootstrap_servers=brokers, **{**settings, **options}))


def member(brokers, group_id, *topics, **options):
    quick = {"group_id": group_id, "heartbeat_interval_ms": 200, "session_timeout_ms": 10_000}
    return reader(brokers, *topics, **{**quick, **options})


async def take(consumer, count, timeout_s=20.0):
    """The next `count` messages."""
    found = []
    async with asyncio.timeout(timeout_s):
        while len(found) < count:
            for messages in (await consumer.getmany(timeout_ms=200)).values():
                found += messages
    return found


async def test_a_record_comes_back_whole(brokers, new_topic):
    """Key, value, headers and time; and null where there is no value."""
    topic = new_topic()
    headers = [("esper-key", b"k1"), ("empty", b"")]
    async with producer(brokers) as sender, reader(brokers, topic) as consumer:
        sent = await sender.send_and_wait(
            topic, b"\x00value\xff", b"key", timestamp_ms=1_234_567_890_123, headers=headers
        )
        await sender.send_and_wait(topic, None, b"gone")
        first, second = await take(consumer, 2)
    assert (first.key, first.value, first.timestamp) == (b"key", b"\x00value\xff", 1_234_567_890_123)
    assert [tuple(header) for header in first.headers] == headers
    assert (sent.offset, first.offset, second.offset) == (0, 0, 1)
    assert (second.key, second.value, second.headers) == (b"gone", None, ())


@pytest.mark.parametrize("compression", [None, "gzip"])
async def test_many_in_flight_arrive_once_and_in_order(brokers, new_topic, compression):
    topic = new_topic()
    values = [b"%05d" % number for number in range(3000)]
    async with producer(brokers, compression_type=compression) as sender, reader(brokers, topic) as consumer:
        await asyncio.gather(*[await sender.send(topic, value) for value in values])
        assert [message.value for message in await take(consumer, len(values))] == values


async def test_a_key_keeps_its_partition(brokers, new_topic):
    topic = new_topic(4)
    async with producer(brokers) as sender:
        sent = [await sender.send_and_wait(topic, b"v", b"run-%d" % (number % 5)) for number in range(20)]
    for number in range(5):
        assert len({record.partition for record in sent[number::5]}) == 1


async def test_a_waiting_reader_is_woken_by_a_write(brokers, new_topic):
    """Though it asks to wait five seconds."""
    topic = new_topic()
    async with producer(brokers) as sender, reader(brokers, topic, fetch_max_wait_ms=5000) as consumer:
        await sender.send_and_wait(topic, b"warm up")
        await take(consumer, 1)
        took = []
        for _ in range(5):
            await asyncio.sleep(0.15)
            began = time.monotonic()
            await sender.send_and_wait(topic, b"now")
            await take(consumer, 1)
            took.append(time.monotonic() - began)
    assert sorted(took)[2] < 2.0  # who is not woken waits for five, at least three of five times


async def test_two_members_share_and_one_takes_over(brokers, new_topic, group_id):
    topic = new_topic(4)
    async with producer(brokers) as sender, member(brokers, group_id, topic) as one:
        async with asyncio.timeout(30):
            while len(one.assignment()) < 4:
                await one.getmany(timeout_ms=100)
            async with member(brokers, group_id, topic) as two:
                while not (len(one.assignment()) == len(two.assignment()) == 2):
                    await asyncio.gather(one.getmany(timeout_ms=100), two.getmany(timeout_ms=100))
                assert not one.assignment() & two.assignment()
            while len(one.assignment()) < 4:
                await one.getmany(timeout_ms=100)
        for partition in range(4):
            await sender.send_and_wait(topic, b"%d" % partition, partition=partition)
        assert {message.value for message in await take(one, 4)} == {b"0", b"1", b"2", b"3"}


async def test_a_group_goes_on_where_it_committed(brokers, new_topic, group_id):
    topic = new_topic()
    place = TopicPartition(topic, 0)
    async with producer(brokers) as sender:
        for number in range(10):
            await sender.send_and_wait(topic, b"%d" % number)
    async with member(brokers, group_id, topic, max_poll_records=4) as consumer:
        await take(consumer, 4)
        await consumer.commit({place: (4, "a note")})
    async with member(brokers, group_id, topic) as consumer:
        assert await consumer.committed(place) == 4
        assert [message.offset for message in await take(consumer, 6)] == [4, 5, 6, 7, 8, 9]


async def test_a_reader_without_group_membership_commits_too(brokers, new_topic, group_id):
    """As the archive does: assign() and a group id, no join."""
    topic = new_topic(2)
    places = [TopicPartition(topic, number) for number in range(2)]
    async with running(
        AIOKafkaConsumer(bootstrap_servers=brokers, group_id=group_id, enable_auto_commit=False)
    ) as consumer:
        consumer.assign(places)
        assert await consumer.committed(places[0]) is None
        await consumer.commit({places[0]: 7, places[1]: 9})
        assert [await consumer.committed(place) for place in places] == [7, 9]


async def test_offsets_by_name_and_by_time(brokers, new_topic):
    topic = new_topic()
    place = TopicPartition(topic, 0)
    async with producer(brokers) as sender, reader(brokers, topic) as consumer:
        for number in range(10):
            await sender.send_and_wait(topic, b"v", timestamp_ms=1_700_000_000_000 + 1000 * number)
        assert await consumer.beginning_offsets([place]) == {place: 0}
        assert await consumer.end_offsets([place]) == {place: 10}
        for wanted, offset in ((0, 0), (1_700_000_003_000, 3), (1_700_000_003_001, 4), (1_700_000_009_000, 9)):
            found = (await consumer.offsets_for_times({place: wanted}))[place]
            assert (found.offset, found.timestamp) == (offset, 1_700_000_000_000 + 1000 * offset)
        assert await consumer.offsets_for_times({place: 1_700_000_009_001}) == {place: None}


async def test_deleted_records_are_gone_and_a_reader_starts_behind_them(brokers, new_topic):
    topic = new_topic()
    place = TopicPartition(topic, 0)
    async with producer(brokers) as sender, running(AIOKafkaAdminClient(bootstrap_servers=brokers)) as admin:
        for _ in range(10):
            await sender.send_and_wait(topic, b"v")
        assert await admin.delete_records({place: RecordsToDelete(before_offset=6)}) == {place: 6}
        async with reader(brokers, topic) as consumer:
            assert [message.offset for message in await take(consumer, 4)] == [6, 7, 8, 9]
            assert await consumer.beginning_offsets([place]) == {place: 6}


async def test_an_offset_out_of_range_is_reset_as_the_client_wishes(brokers, new_topic):
    topic = new_topic()
    place = TopicPartition(topic, 0)
    async with (
        producer(brokers) as sender,
        running(AIOKafkaConsumer(bootstrap_servers=brokers, auto_offset_reset="earliest")) as consumer,
    ):
        await sender.send_and_wait(topic, b"only")
        consumer.assign([place])
        consumer.seek(place, 1_000_000)
        assert [message.offset for message in await take(consumer, 1)] == [0]


async def test_topics_are_made_enlarged_described_and_deleted(brokers):
    name = f"conformance-{uuid.uuid4().hex[:12]}"
    async with running(AIOKafkaAdminClient(bootstrap_servers=brokers)) as admin:
        made = await admin.create_topics([NewTopic(name, 2, 1, topic_configs={"retention.ms": "86400000"})])
        assert [error for _, error, _ in made.topic_errors] == [0]
        with pytest.raises(TopicAlreadyExistsError):
            await create_or_raise(admin, name)
        await heard_of(lambda: listed(admin, name))
        await admin.create_partitions({name: NewPartitions(4)})
        await heard_of(lambda: has_partitions(admin, name, [0, 1, 2, 3]))
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
        configs = {entry[0]: entry[1] for entry in answer.resources[0][4]}
        assert (configs["retention.ms"], configs["cleanup.policy"]) == ("86400000", "delete")
        await admin.delete_topics([name])
        await heard_of(lambda: listed(admin, name), there=False)  # Kafka deletes in the background


async def listed(admin, name):
    return name in await admin.list_topics()


async def has_partitions(admin, name, expected):
    (described,) = await admin.describe_topics([name])
    return [partition["partition"] for partition in described["partitions"]] == expected


async def heard_of(question, *, there=True, within_s=10.0):
    """Wait until whichever broker answers has heard of a change that another one made."""
    async with asyncio.timeout(within_s):
        while await question() is not there:  # noqa: ASYNC110  Kafka tells nobody
            await asyncio.sleep(0.1)


async def create_or_raise(admin, name):
    """Newer brokers answer a code, which aiokafka does not raise by itself."""
    answer = await admin.create_topics([NewTopic(name, 2, 1)])
    if answer.topic_errors[0][1] == TopicAlreadyExistsError.errno:
        raise TopicAlreadyExistsError(name)


async def test_nothing_is_made_by_asking_for_it(brokers):
    name = f"conformance-{uuid.uuid4().hex[:12]}"
    async with running(AIOKafkaAdminClient(bootstrap_servers=brokers)) as admin:
        (described,) = await admin.describe_topics([name])
        assert described["error_code"] == UnknownTopicOrPartitionError.errno
        assert name not in await admin.list_topics()


async def test_groups_are_listed_and_described(brokers, new_topic, group_id):
    topic = new_topic(2)
    async with running(AIOKafkaAdminClient(bootstrap_servers=brokers)) as admin:
        async with member(brokers, group_id, topic) as consumer:
            async with asyncio.timeout(20):
                while len(consumer.assignment()) < 2:
                    await consumer.getmany(timeout_ms=100)
            await consumer.commit({TopicPartition(topic, 0): 5})
            assert (group_id, "consumer") in await admin.list_consumer_groups()
            (described,) = await admin.describe_consumer_groups([group_id])
            (error, name, state, kind, _, members, *_) = described.groups[0]
            assert (error, name, state, kind, len(members)) == (0, group_id, "Stable", "consumer", 1)
        offsets = await admin.list_consumer_group_offsets(group_id)
        assert offsets[TopicPartition(topic, 0)].offset == 5


async def test_a_batch_of_nearly_a_mebibyte_passes_and_a_larger_one_does_not(brokers, new_topic):
    topic = new_topic()
    async with producer(brokers, max_request_size=4_000_000) as sender, reader(brokers, topic) as consumer:
        await sender.send_and_wait(topic, b"x" * 1_000_000)
        (message,) = await take(consumer, 1)
        assert len(message.value) == 1_000_000
        with pytest.raises(MessageSizeTooLargeError):
            await sender.send_and_wait(topic, b"x" * 2_000_000)
