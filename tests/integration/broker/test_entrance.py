"""Who is let in: whoever names the secret of the log's folder, and anyone where the log was told so."""

from __future__ import annotations

import asyncio
import stat
import time

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaConnectionError,
    TopicAuthorizationFailedError,
)

from contracts.topics import TOPICS
from esper.errors import LogUnavailable
from streams.access import credentials, know
from streams.broker.connection import MAX_REQUEST_BYTES
from streams.broker.entrance import CLOSED, NOBODYS, STRANGERS_BYTES
from streams.broker.launch import start_broker
from streams.consumer import ends_of
from streams.topics import ensure_topics

confluent_kafka = pytest.importorskip("confluent_kafka")
from confluent_kafka.admin import AdminClient  # noqa: E402

TOPIC = TOPICS[0].name
AT_ONCE_S = 3.0
DENIED = confluent_kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """A log as every data folder has one, with the topics; and its folder."""
    data = tmp_path_factory.mktemp("closed")
    broker = start_broker(data)
    asyncio.run(ensure_topics(broker.address))
    yield broker.address, data
    broker.stop()


async def tried(client, doing):
    """What `doing` with a client of aiokafka's that has to start first raises, which it does at once."""
    began = time.monotonic()
    try:
        await client.start()
        await doing(client)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
        assert time.monotonic() - began < AT_ONCE_S
        return error
    finally:
        await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())
    return None


def librdkafka(address, secret=None, **settings):
    """Settings of librdkafka's clients, with the secret where there is one."""
    login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "esper"}
    asked = {} if secret is None else login | {"sasl.password": secret}
    return {"bootstrap.servers": address, "log_level": 0, **asked, **settings}


def test_the_secret_is_the_users_alone(closed):
    _, data = closed
    path = data / "log" / "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(bytes.fromhex(path.read_text())) == 32


def test_our_own_clients_are_let_in(closed):
    address, _ = closed
    assert set(ends_of(address).values()) == {0}
    assert credentials("127.0.0.1:1") == {}


@pytest.mark.parametrize(
    ("make", "doing", "refused"),
    [
        (AIOKafkaProducer, lambda it: it.send_and_wait(TOPIC, b"x"), TopicAuthorizationFailedError),
        (lambda **at: AIOKafkaProducer(enable_idempotence=True, **at), None, ClusterAuthorizationFailedError),
        (lambda **at: AIOKafkaConsumer(TOPIC, **at), lambda it: it.getone(), TopicAuthorizationFailedError),
        (lambda **at: AIOKafkaConsumer(TOPIC, group_id="g", **at), None, TopicAuthorizationFailedError),
        (AIOKafkaAdminClient, lambda it: it.delete_topics([TOPIC]), KafkaConnectionError),
    ],
    ids=["producer", "idempotent", "consumer", "group", "admin"],
)
def test_a_client_of_aiokafka_without_the_secret_is_refused_at_once(closed, make, doing, refused):
    address, _ = closed

    async def attempt():
        async def nothing(_):
            return None

        return await tried(make(bootstrap_servers=address), doing or nothing)

    assert isinstance(asyncio.run(attempt()), refused)
    assert set(ends_of(address, TOPICS).values()) == {0}


def test_who_creates_topics_is_told_how_to_come_in(closed):
    address, _ = closed

    async def create():
        admin = AIOKafkaAdminClient(bootstrap_servers=address)
        await admin.start()
        try:
            return await admin.list_topics(), await admin.create_topics([NewTopic("mine", 1, 1)])
        finally:
            await admin.close()

    listed, created = asyncio.run(create())
    assert listed == [NOBODYS]
    assert created.topic_errors == [("mine", DENIED, CLOSED)]


def test_a_client_of_librdkafka_without_the_secret_is_refused_at_once(closed):
    address, _ = closed
    began = time.monotonic()
    delivered = []
    producer = confluent_kafka.Producer(librdkafka(address))
    producer.produce(TOPIC, b"x", on_delivery=lambda error, _: delivered.append(error.code()))
    producer.flush(AT_ONCE_S)
    consumer = confluent_kafka.Consumer(librdkafka(address, **{"group.id": "g"}))
    consumer.subscribe([TOPIC])
    found = consumer.poll(AT_ONCE_S).error()
    consumer.close()
    (listed,) = AdminClient(librdkafka(address)).list_topics(timeout=AT_ONCE_S).topics.values()

    assert delivered == [DENIED]
    assert found.code() == confluent_kafka.KafkaError.GROUP_AUTHORIZATION_FAILED
    assert CLOSED in found.str()
    assert listed.error.code() == DENIED
    assert time.monotonic() - began < AT_ONCE_S


def test_a_client_of_librdkafka_with_the_secret_is_let_in(closed):
    address, data = closed
    secret = (data / "log" / "secret").read_text().strip()
    listed = AdminClient(librdkafka(address, secret)).list_topics(timeout=AT_ONCE_S).topics
    assert set(listed) == {topic.name for topic in TOPICS}


def test_a_wrong_secret_is_refused_by_name(closed):
    address, _ = closed
    wrong = {**credentials(address), "sasl_plain_password": "0" * 64}

    async def attempt():
        return await tried(AIOKafkaProducer(bootstrap_servers=address, **wrong), None)

    assert isinstance(asyncio.run(attempt()), KafkaConnectionError)
    said = []
    producer = confluent_kafka.Producer(librdkafka(address, "0" * 64, error_cb=lambda error: said.append(error.str())))
    until = time.monotonic() + AT_ONCE_S
    while not said and time.monotonic() < until:
        producer.poll(0.1)
    assert "not the secret of this log" in said[0]


def test_anyone_is_let_in_where_the_log_was_told_so(tmp_path):
    broker = start_broker(tmp_path, anonymous=True)
    try:
        asyncio.run(ensure_topics(broker.address))  # our own clients, which found no secret
        for secret in (None, "whatever"):
            found = AdminClient(librdkafka(broker.address, secret)).list_topics(timeout=AT_ONCE_S).topics
            assert TOPIC in found
    finally:
        broker.stop()
    assert not (tmp_path / "log" / "secret").exists()


def test_a_secret_survives_a_restart_and_an_older_folder_gets_one(host):
    first = host.start(anonymous=True)
    first.stop()
    second = host.start(anonymous=False)
    drawn = credentials(second.address)
    second.kill()
    third = host.start(anonymous=False)
    know(third.address, host.data_dir)
    assert credentials(third.address) == drawn


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.chmod(0o640), r"can be read by others \(mode 0640\): run `chmod 600 "),
        (lambda path: path.write_text("abc"), "is cut short: move it away"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a file"),
        (lambda path: (path.rename(path.with_name("else")), path.symlink_to("else")), "is a symbolic link"),
    ],
    ids=["mode", "short", "folder", "link"],
)
def test_a_secret_that_is_none_stops_the_start_by_name(tmp_path, spoil, said):
    path = tmp_path / "log" / "secret"
    path.parent.mkdir()
    path.write_text("ab" * 32)
    path.chmod(0o600)
    spoil(path)
    with pytest.raises(LogUnavailable, match=said):
        start_broker(tmp_path)


@pytest.mark.parametrize(
    ("key", "size"), [(0, 20), (1, 20), (20, 20), (32, 20), (3, STRANGERS_BYTES + 1), (0, MAX_REQUEST_BYTES)]
)
def test_whatever_else_a_stranger_asks_ends_the_connection(closed, key, size):
    """Large requests before they are received."""
    address, _ = closed

    async def ask():
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(size.to_bytes(4, "big") + key.to_bytes(2, "big") + b"\0\2\0\0\0\7\xff\xff" + bytes(10))
        try:
            async with asyncio.timeout(AT_ONCE_S):
                return await reader.read()
        finally:
            writer.close()

    assert asyncio.run(ask()) == b""


def test_authentication_begins_with_a_handshake(closed):
    address, data = closed
    secret = (data / "log" / "secret").read_text().strip()
    token = f"\0esper\0{secret}".encode()
    body = b"\0\x24\0\0\0\0\0\7\xff\xff" + len(token).to_bytes(4, "big") + token

    async def ask():
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(len(body).to_bytes(4, "big") + body)
        try:
            async with asyncio.timeout(AT_ONCE_S):
                return await reader.read()
        finally:
            writer.close()

    illegal_state = (34).to_bytes(2, "big")
    assert asyncio.run(ask())[8:10] == illegal_state
