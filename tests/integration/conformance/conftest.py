"""The same tests on any broker: `ESPER_TEST_BROKERS=host:port pytest tests/integration/conformance`.

Without that variable a fresh embedded broker is started. The broker must be empty of nothing and configured for
nothing but `auto.create.topics.enable=false`; every test makes topics and groups with names of its own and deletes the
topics afterwards.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from streams.broker.launch import start_broker


@pytest.fixture(scope="session")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the broker under test."""
    outside = os.environ.get("ESPER_TEST_BROKERS")
    if outside:
        yield outside
        return
    broker = start_broker(tmp_path_factory.mktemp("conformance"), anonymous=True)
    yield broker.address
    assert broker.stop() == 0


@pytest.fixture(scope="session")
def admin(brokers: str) -> AdminClient:
    """Librdkafka's admin client."""
    return AdminClient({"bootstrap.servers": brokers})


@pytest.fixture
def new_topic(admin: AdminClient) -> Iterator[Callable[..., str]]:
    """Makes topics; deletes them after the test."""
    made: list[str] = []

    def make(partitions: int = 1, **configs: str) -> str:
        name = f"conformance-{uuid.uuid4().hex[:12]}"
        config = {key.replace("_", "."): value for key, value in configs.items()}
        admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(10)
        made.append(name)
        wait_until_all_know(admin, name, partitions)
        return name

    yield make
    for future in admin.delete_topics(made, operation_timeout=10).values() if made else ():
        future.result(10)


def wait_until_all_know(admin: AdminClient, topic: str, partitions: int) -> None:
    """A broker of a cluster may hear after the one that was asked that there is a topic; clients ask any of them."""
    until = time.monotonic() + 30
    for broker in admin.list_topics(timeout=10).brokers.values():
        address = f"{broker.host}:{broker.port}"
        while True:  # a client that is new asks the one that it was told of
            known = AdminClient({"bootstrap.servers": address}).list_topics(topic, timeout=10).topics[topic]
            if known.error is None and len(known.partitions) == partitions:
                break
            assert time.monotonic() < until, f"{address} does not know {topic}: {known.error}"
            time.sleep(0.02)


@pytest.fixture
def group_id() -> str:
    """A group of this test alone."""
    return f"group-{uuid.uuid4().hex[:12]}"
