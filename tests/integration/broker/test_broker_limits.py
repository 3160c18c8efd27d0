"""What a client cannot do to the broker: ask too much, say nonsense, hold it up."""

from __future__ import annotations

import contextlib
import datetime as dt
import resource
import select
import struct
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.broker.connection import APIS, MAX_REQUEST_BYTES
from streams.broker.handlers.absent import NO_TRANSACTIONS
from streams.broker.handlers.records import GATHER_BYTES, GATHER_S
from streams.broker.launch import start_broker
from streams.broker.limits import Limits


def test_a_long_poll_waits_as_long_as_is_asked(raw):
    raw.create("t")
    began = time.monotonic()
    answer = raw.fetch("t", 0, wait_s=0.5)
    waited = time.monotonic() - began

    assert answer.error_code == 0
    assert 0.49 <= waited < 5.0


@pytest.mark.serial
def test_a_write_wakes_a_waiting_reader(host, broker, raw, batch_of):
    """Long before its wait is over."""
    raw.create("t")
    writer = host.connect(broker)
    taken = []
    for number in range(20):
        raw.send(raw.fetch_request("t", number, wait_s=30.0))
        time.sleep(0.01)
        began = time.monotonic()
        writer.produce("t", batch_of(b"now"))
        assert raw.answer(1, 11).responses[0].partitions[0].records
        taken.append(time.monotonic() - began)
    assert sorted(taken)[10] < 0.05


def test_records_that_are_fewer_than_min_bytes_wait_for_company(raw, batch_of):
    raw.create("t")
    raw.produce("t", batch_of(b"small"))
    began = time.monotonic()
    answer = raw.fetch("t", 0, wait_s=30.0, min_bytes=10_000)
    waited = time.monotonic() - began

    assert answer.records
    assert 0.9 * GATHER_S <= waited < 5.0


def test_a_reader_that_waits_learns_of_its_topics_end(host, broker, raw):
    raw.create("t")
    raw.send(raw.fetch_request("t", 0, wait_s=30.0))
    time.sleep(0.02)
    deleted = host.connect(broker).ask(20, 3, topic_names=["t"], timeout=dt.timedelta(seconds=1))
    assert deleted.responses[0].error_code == 0
    assert raw.answer(1, 11).responses[0].partitions[0].error_code.name == "unknown_topic_or_partition"


def test_a_topic_may_ask_for_the_disk_before_every_acknowledgement(raw, batch_of):
    raw.create("t", flush_messages="1")
    assert [raw.produce("t", batch_of(b"v")).base_offset for _ in range(5)] == [0, 1, 2, 3, 4]


def test_requests_behind_a_long_poll_are_answered_in_order(raw, batch_of):
    raw.create("t")
    raw.send(raw.fetch_request("t", 0, wait_s=30.0) + raw.frame(18, 0, b"", 99))
    assert int.from_bytes(raw.receive()[:4], "big") == 7
    assert int.from_bytes(raw.receive()[:4], "big") == 99


def test_a_request_behind_a_long_poll_ends_its_wait(raw):
    raw.create("t")
    raw.send(raw.fetch_request("t", 0, wait_s=30.0))
    time.sleep(0.2)
    began = time.monotonic()
    raw.send(raw.frame(18, 0, b"", 99))
    answered = [int.from_bytes(raw.receive()[:4], "big") for _ in range(2)]

    assert answered == [7, 99]
    assert time.monotonic() - began < 5.0


@pytest.mark.serial
def test_a_reader_that_gathers_is_answered_after_the_urgent_one_and_once(host, broker, raw, batch_of):
    """The write wakes both; the one that asked for more than a byte has the second write in its one answer, too."""
    raw.create("t")
    writer, urgent = host.connect(broker), host.connect(broker)
    for _ in range(5):
        offset = writer.produce("t", batch_of(b"before")).base_offset + 1
        raw.send(raw.fetch_request("t", offset, wait_s=30.0, min_bytes=2))
        urgent.send(urgent.fetch_request("t", offset, wait_s=30.0))
        time.sleep(0.05)
        began = time.monotonic()
        writer.produce("t", batch_of(b"one"))
        first = urgent.answer(1, 11).responses[0].partitions[0]
        at_once = time.monotonic() - began
        writer.produce("t", batch_of(b"two"))
        written_in = time.monotonic() - began
        gathered = raw.answer(1, 11).responses[0].partitions[0]
        waited = time.monotonic() - began
        if written_in < GATHER_S:  # else this machine was too busy to tell
            break

    assert written_in < GATHER_S
    assert len(gathered.records) == 2 * len(first.records)
    assert at_once < GATHER_S <= waited < 5.0


@pytest.mark.serial
def test_a_reader_that_gathers_does_not_wait_where_there_is_much(raw, batch_of):
    raw.create("t")
    raw.produce("t", batch_of(bytes(GATHER_BYTES)))
    began = time.monotonic()
    answers = [raw.fetch("t", 0, wait_s=30.0, min_bytes=2) for _ in range(20)]

    assert all(len(answer.records) > GATHER_BYTES for answer in answers)
    assert time.monotonic() - began < 20 * GATHER_S


def test_a_client_that_leaves_in_the_middle_of_a_wait_leaves_nothing_behind(host, broker, raw):
    """Fifty times: afterwards the broker has no more descriptors open than before."""
    raw.create("t")
    descriptors = Path(f"/proc/{broker.pid}/fd")
    raw.fetch("t", 0)
    before = len(list(descriptors.iterdir()))
    for _ in range(50):
        client = host.connect(broker)
        client.send(client.fetch_request("t", 0, wait_s=30.0))
        client.close()
    until = time.monotonic() + 5
    while len(list(descriptors.iterdir())) > before and time.monotonic() < until:
        time.sleep(0.02)
    assert len(list(descriptors.iterdir())) <= before
    assert raw.alive()


@pytest.mark.parametrize(
    "nonsense",
    [
        struct.pack(">i", -1) + bytes(8),
        struct.pack(">i", 3) + bytes(8),
        struct.pack(">ihhi", MAX_REQUEST_BYTES + 1, 3, 8, 1),
        struct.pack(">ihhi", 2**31 - 1, 0, 8, 1),
        struct.pack(">ihhih", 10, 3, 8, 1, 5000),
        struct.pack(">ihhihi", 14, 3, 8, 1, -1, 2**31 - 1),
        struct.pack(">ihhih", 10, 0, 2, 1, -1),
        struct.pack(">ihhih", 10, 999, 0, 1, -1),
        struct.pack(">ihhih", 10, 1, 18, 1, -1),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    ],
    ids=[
        "negative-size",
        "tiny",
        "too-large",
        "two-gibibytes",
        "client-id-beyond-the-end",
        "two-billion-topics",
        "ancient-produce",
        "unknown-api",
        "newer-fetch",
        "http",
        "tls",
    ],
)
def test_nonsense_ends_the_connection_and_nothing_else(host, broker, raw, nonsense):
    client = host.connect(broker)
    client.send(nonsense)
    assert client.receive() == b""
    assert raw.alive()


def test_a_newer_client_learns_what_is_spoken(raw):
    raw.send(raw.frame(18, 99, b""))
    answer = raw.answer(18, 0)
    assert answer.error_code.name == "unsupported_version"
    assert {api.api_key for api in answer.api_keys} == {key for key, api in APIS.items() if not api.silent}


def test_all_connections_taken_lock_nobody_out(host, broker, raw):
    """Which of them gives way: `test_broker_budgets.py`."""
    assert raw.alive()
    silent = [host.connect(broker) for _ in range(Limits().connections)]
    late = host.connect(broker)

    assert late.alive()
    assert raw.alive()
    assert silent[0].receive() == b""


@pytest.mark.serial
def test_half_sent_requests_do_not_fill_the_memory(host, broker, raw):
    """30 produce requests of 60 MiB, all but their last bytes."""
    before = memory_mib(broker)
    frame = memoryview(struct.pack(">ihhih", 60 << 20, 0, 8, 1, -1) + bytes(59 << 20))
    left = {host.connect(broker).socket: frame for _ in range(30)}
    until = time.monotonic() + 12.0
    while left and time.monotonic() < until:
        _, ready, _ = select.select([], left, [], 0.1)
        for each in ready:
            each.setblocking(False)
            left[each] = left[each][each.send(left[each][: 1 << 20]) :]
        left = {each: rest for each, rest in left.items() if rest}
        if not ready and len(left) <= 28:
            break

    assert raw.alive()
    assert len(left) == 28, "two have room, the others wait"
    assert memory_mib(broker) - before < 250


def memory_mib(broker):
    status = Path(f"/proc/{broker.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (lambda records: records[:-1], "corrupt_message"),
        (lambda records: records[:30], "corrupt_message"),
        (lambda records: records[:0], "corrupt_message"),
        (lambda records: records[:80] + b"\xff" + records[81:], "corrupt_message"),
        (lambda records: records[:16] + b"\x01" + records[17:], "unsupported_for_message_format"),
        (lambda records: records + records, "invalid_record"),
    ],
    ids=["shortened", "half-a-header", "empty", "flipped", "older-format", "two-batches"],
)
def test_a_bad_batch_is_refused_and_changes_nothing(raw, batch_of, harm, code):
    raw.create("t")
    answer = raw.produce("t", harm(batch_of(b"v" * 100)))
    assert (answer.error_code.name, answer.base_offset) == (code, -1)
    assert answer.error_message
    assert raw.fetch("t", 0).high_watermark == 0


def test_what_the_broker_has_not_is_refused_by_name(raw, batch_of):
    raw.create("t")
    transactional = raw.ask(22, 1, transactional_id="tx", transaction_timeout=dt.timedelta(seconds=1))
    assert transactional.error_code.name == "transactional_id_authorization_failed"
    coordinator = raw.ask(10, 2, key="tx", key_type=1)
    assert (coordinator.error_code.name, coordinator.error_message) == (
        "transactional_id_authorization_failed",
        NO_TRANSACTIONS,
    )
    topic = {"name": "c", "num_partitions": 1, "replication_factor": 1, "assignments": ()}
    compacted = topic | {"configs": [{"name": "cleanup.policy", "value": "compact"}]}
    answer = raw.ask(19, 4, topics=[compacted], timeout=dt.timedelta(seconds=1), validate_only=False)
    assert answer.topics[0].error_message == "cleanup.policy=compact: this broker knows delete"
    unknown = raw.produce("nowhere", batch_of(b"v"))
    assert unknown.error_code.name == "unknown_topic_or_partition"


def limit_files(broker, size):
    """No file of the process may grow beyond `size` bytes: to the writer it is a full disk."""
    soft, hard = resource.prlimit(broker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (size if size is not None else hard, hard))
    return soft


def test_a_full_disk_is_refused_and_nothing_is_damaged(host, broker, raw, batch_of):
    raw.create("t")
    written = [raw.produce("t", batch_of(b"x" * 50_000)).base_offset for _ in range(3)]
    assert written == [0, 1, 2]
    limit_files(broker, 170_000)
    for _ in range(3):
        refused = raw.produce("t", batch_of(b"y" * 50_000))
        assert (refused.error_code.name, refused.base_offset) == ("kafka_storage_error", -1)
    assert "is refused until there is room" in refused.error_message
    assert raw.fetch("t", 2).high_watermark == 3
    limit_files(broker, None)
    assert raw.produce("t", batch_of(b"z")).base_offset == 3
    broker.kill()
    again = host.connect(host.start())
    assert again.fetch("t", 0).high_watermark == 4
    assert host.said().count("is refused until there is room") == 1, "said once, not once per attempt"


def test_a_full_disk_refuses_commits_and_topics_too(broker, raw):
    """SQLite's file cannot grow: the answer is an error, the broker lives on."""
    raw.create("t")
    limit_files(broker, 1)
    position = {"partition_index": 0, "committed_offset": 0, "committed_metadata": "n" * 4000}
    topics = [{"name": "t", "partitions": [position]}]
    ask = {"group_id": "g", "generation_id_or_member_epoch": -1, "member_id": "", "topics": topics}
    assert raw.ask(8, 7, **ask).topics[0].partitions[0].error_code.name == "kafka_storage_error"
    topic = {"name": "u", "num_partitions": 1, "replication_factor": 1, "assignments": (), "configs": ()}
    made = raw.ask(19, 4, topics=[topic], timeout=dt.timedelta(seconds=1), validate_only=False)
    assert made.topics[0].error_code.name == "kafka_storage_error"
    limit_files(broker, None)
    assert raw.ask(8, 7, **ask).topics[0].partitions[0].error_code == 0
    raw.create("u")


def test_a_really_full_disk(tmp_path, batch_of, host):
    """A file system of one mebibyte, where mounting one is permitted."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        broker = start_broker(tmp_path, anonymous=True)
        raw = host.connect(broker)
        raw.create("t")
        codes = [raw.produce("t", batch_of(b"x" * 100_000)).error_code.name for _ in range(12)]
        stored = codes.count("none")
        assert codes == ["none"] * stored + ["kafka_storage_error"] * (12 - stored)
        assert 0 < stored < 12
        assert raw.fetch("t", stored - 1).records
        broker.kill()
        broker = start_broker(tmp_path, anonymous=True)
        assert host.connect(broker).fetch("t", 0).high_watermark == stored
        broker.stop()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(sorted(APIS)) | st.integers(-1, 80),
    version=st.integers(-1, 12),
    body=st.binary(max_size=200),
    lie=st.sampled_from([0, 0, 0, 0, 1, -1, 1000]),
)
def test_no_bytes_crash_the_broker(host, broker, raw, key, version, body, lie):
    """Whatever follows a plausible header: an answer, a closed connection, or patience for the rest."""
    client = host.connect(broker)
    frame = bytearray(client.frame(key, version, body))
    struct.pack_into(">i", frame, 0, len(frame) - 4 + lie)
    client.send(bytes(frame))
    client.socket.settimeout(0.02)
    with contextlib.suppress(TimeoutError):
        client.receive()
    client.close()
    assert raw.alive()
    assert "Traceback" not in host.said()


def test_no_request_fails_inside_the_broker(host, broker, raw):
    """Every version of every API, bodies of patterns: what is wrong is found while reading, not in a handler."""
    assert raw.alive()  # one that asks nothing is closed after a while, which a busy machine needs for all of these
    for key, api in APIS.items():
        for version in range(api.read_from, api.last + 1):
            for body in (b"", b"\xff" * 64, b"\0\0\0\1" * 20):
                client = host.connect(broker)
                client.send(client.frame(key, version, body))
                client.socket.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    client.receive()
                client.close()
    assert raw.alive()
    assert "Traceback" not in host.said()
