"""A broker process per test, and a client that speaks the bare protocol."""

from __future__ import annotations

import datetime as dt
import io
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from streams.broker.launch import BrokerProcess, start_broker
from streams.broker.protocol import build

SECOND = dt.timedelta(seconds=1)


class RawClient:
    """One connection; requests are built from plain values, answers are kio objects."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    @staticmethod
    def frame(key: int, version: int, body: bytes, correlation_id: int = 7) -> bytes:
        head = struct.pack(">hhih", key, version, correlation_id, 4) + b"test"
        return struct.pack(">i", len(head) + len(body)) + head + body

    def request(self, api: int, version: int, /, **values: Any) -> bytes:
        entity = load_request_schema(api, version)
        buffer = io.BytesIO()
        entity_writer(entity)(buffer, build(entity, values))
        return self.frame(api, version, buffer.getvalue())

    def receive(self) -> bytes:
        """One frame, or b"" when the broker has closed the connection."""
        head = self._exactly(4)
        return self._exactly(int.from_bytes(head, "big")) if head else b""

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                more = self.socket.recv(count - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                return b""
            data += more
        return data

    def answer(self, key: int, version: int) -> Any:
        frame = self.receive()
        assert frame, "the broker closed the connection"
        message, _ = entity_reader(load_response_schema(key, version))(frame, 4)
        return message

    def ask(self, api: int, version: int, /, **values: Any) -> Any:
        self.send(self.request(api, version, **values))
        return self.answer(api, version)

    def create(self, name: str, partitions: int = 1, **configs: str) -> None:
        given = [{"name": key.replace("_", "."), "value": value} for key, value in configs.items()]
        topic = {
            "name": name,
            "num_partitions": partitions,
            "replication_factor": 1,
            "assignments": (),
            "configs": given,
        }
        answer = self.ask(19, 4, topics=[topic], timeout=SECOND, validate_only=False)
        assert answer.topics[0].error_code == 0, answer.topics[0]

    def produce(self, topic: str, records: bytes, *, acks: int = -1) -> Any:
        """The one partition's answer."""
        data = [{"name": topic, "partition_data": [{"index": 0, "records": records}]}]
        answer = self.ask(0, 8, transactional_id=None, acks=acks, timeout=SECOND, topic_data=data)
        return answer.responses[0].partition_responses[0]

    def fetch_request(self, topic: str, offset: int, *, wait_s: float = 0.0, min_bytes: int = 1) -> bytes:
        partitions = [{"partition": 0, "fetch_offset": offset, "partition_max_bytes": 1 << 20}]
        return self.request(
            1,
            11,
            replica_id=-1,
            max_wait=dt.timedelta(seconds=wait_s),
            min_bytes=min_bytes,
            topics=[{"topic": topic, "partitions": partitions}],
            forgotten_topics_data=[],
        )

    def fetch(self, topic: str, offset: int, **options: Any) -> Any:
        """The one partition's answer."""
        self.send(self.fetch_request(topic, offset, **options))
        return self.answer(1, 11).responses[0].partitions[0]

    def alive(self) -> bool:
        return self.ask(18, 0).error_code == 0

    def close(self) -> None:
        self.socket.close()


def make_batch(*values: bytes, producer: tuple[int, int, int] = (-1, -1, -1), codec: int = 0) -> bytes:
    """One batch; `producer` is id, epoch and first sequence."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, *producer, 1 << 24)
    for number, value in enumerate(values):
        builder.append(number, 1_000, None, value, [])
    return bytes(builder.build())


@pytest.fixture
def batch_of() -> Callable[..., bytes]:
    return make_batch


class Host:
    """Starts brokers on one data folder, again and again, and connects to them."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._started: list[BrokerProcess] = []
        self._clients: list[RawClient] = []

    def start(self, **options: Any) -> BrokerProcess:
        broker = start_broker(self.data_dir, **{"anonymous": True, **options})
        self._started.append(broker)
        return broker

    def connect(self, broker: BrokerProcess) -> RawClient:
        client = RawClient(broker.port)
        self._clients.append(client)
        return client

    def said(self) -> str:
        return (self.data_dir / "log" / "broker.log").read_text()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for broker in self._started:
            if broker.process.poll() is None:
                broker.kill()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


@pytest.fixture
def broker(host: Host) -> BrokerProcess:
    return host.start()


@pytest.fixture
def raw(host: Host, broker: BrokerProcess) -> RawClient:
    return host.connect(broker)
