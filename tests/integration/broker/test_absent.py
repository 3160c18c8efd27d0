"""What the broker has not is refused at once, by name, with an error that clients take as final."""

from __future__ import annotations

import asyncio
import datetime as dt
import time

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import TransactionalIdAuthorizationFailed

from streams.broker.handlers.absent import NO_NEW_GROUPS, NO_TRANSACTIONS

confluent_kafka = pytest.importorskip("confluent_kafka")
SOON_S = 10.0
TRANSACTION = {"transactional_id": "x", "producer_id": 1, "producer_epoch": 0}
TOPICS = [{"name": "t", "partitions": [{"partition_index": 0, "committed_offset": 1, "committed_metadata": None}]}]
ADDED = {f"v3_and_below_{name}": value for name, value in TRANSACTION.items()}


@pytest.mark.asyncio
async def test_a_transactional_producer_of_aiokafka_ends_at_once(host, broker):
    producer = AIOKafkaProducer(bootstrap_servers=broker.address, transactional_id="x")
    try:
        with pytest.raises(TransactionalIdAuthorizationFailed):
            await asyncio.wait_for(producer.start(), SOON_S)
    finally:
        await producer.stop()

    assert NO_TRANSACTIONS in host.said()


def test_a_transactional_producer_of_librdkafka_ends_at_once(broker):
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.address, "transactional.id": "x", "log_level": 0})
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        producer.init_transactions(SOON_S)

    assert refused.value.args[0].fatal()
    assert NO_TRANSACTIONS in refused.value.args[0].str()


def test_a_consumer_of_the_newer_groups_ends_at_once(host, broker, raw):
    raw.create("t")
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": broker.address, "group.id": "g", "group.protocol": "consumer", "log_level": 0}
    )
    consumer.subscribe(["t"])
    until = time.monotonic() + SOON_S
    found = None
    while found is None and time.monotonic() < until:
        found = consumer.poll(0.1)
    consumer.close()

    assert found.error().code() == confluent_kafka.KafkaError._FATAL
    assert NO_NEW_GROUPS in host.said()


@pytest.mark.parametrize(
    ("api", "request_"),
    [
        (22, {"transactional_id": "x", "transaction_timeout": dt.timedelta(seconds=1)}),
        (24, ADDED | {"v3_and_below_topics": [{"name": "t", "partitions": [0]}]}),
        (25, TRANSACTION | {"group_id": "g"}),
        (26, TRANSACTION | {"committed": True}),
        (28, TRANSACTION | {"group_id": "g", "topics": TOPICS}),
        (10, {"key": "x", "key_type": 1}),
    ],
    ids=["init-producer-id", "add-partitions", "add-offsets", "end", "commit-offsets", "find-coordinator"],
)
def test_every_request_of_a_transaction_is_refused_by_the_same_name(raw, api, request_):
    answer = raw.ask(api, 1, **request_)

    assert "transactional_id_authorization_failed" in str(answer)
    assert raw.alive()


def test_requests_of_transactions_are_not_offered(raw):
    offered = {api.api_key for api in raw.ask(18, 0).api_keys}

    assert offered.isdisjoint({24, 25, 26, 28})
