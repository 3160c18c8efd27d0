"""No secret reaches the data folder, what a process prints, its metrics, or an export (R-SEC-13)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard

from contracts.leyline.v1.event_pb2 import RunStarted, StateDigested
from esper.cli.app import dispatch
from esper.leyline import ids
from esper.leyline.envelope import new_event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import HEADER_KEY_ID, HEADER_SIGNATURE, KeyRing, key_id
from projections.archive_writer import Archive
from projections.records import StoredRecord
from streams.broker.launch import start_broker
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.settings import Settings
from streams.writer import LogWriter

pytestmark = pytest.mark.cold

KEY, PREVIOUS, STRANGER = "a1" * 32, "b2" * 32, "c3" * 32
PLANTED = "d4" * 32


@pytest.mark.requirement("R-SEC-13")
def test_no_secret_leaves_the_environment(tmp_path):
    """The worker reads events of both keys and one of a stranger, so that it has something to say about keys."""
    data = tmp_path / "data"
    broker = start_broker(data)
    worker = start_worker(data, broker.address)
    try:
        told = json.loads(worker.stdout.readline())
        for secret in (KEY, PREVIOUS, STRANGER):
            publish(broker.address, secret)
        metrics = wait_for_failures(told["health_port"])
        worker.terminate()
        printed, complained = worker.communicate(timeout=20)
    finally:
        worker.kill()  # where it has not ended by itself
        broker.stop()
    opens = (data / "log" / "secret").read_text().strip()
    on_disk = {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != "secret"}
    everything = b"\n".join([*on_disk.values(), metrics, printed.encode(), complained.encode()])

    assert len(on_disk) > 5
    assert key_id(bytes.fromhex(KEY)).encode() in everything  # keys are known by their ids, and these are there
    for secret in (KEY, PREVIOUS, STRANGER, opens):
        assert secret.encode() not in everything
        assert bytes.fromhex(secret) not in everything


def test_no_secret_is_in_an_export(tmp_path, monkeypatch, capsys):
    """Parquet is compressed, so its values are looked at too; what is signed names its key by the id alone."""
    monkeypatch.setenv("ESPER_KEY", KEY)
    monkeypatch.setenv("ESPER_KEY_PREVIOUS", PREVIOUS)
    data, to = tmp_path / "data", tmp_path / "to"
    ring = load_key_ring(Settings.load(), "127.0.0.1:1")
    ref = ObjectStore(data / "objects").put(b'{"weights": 1}')
    started = RunStarted(task="digits", config_json=json.dumps({"what a run says of itself": PLANTED, "ref": ref}))
    event_id = ids.uuid7(time.time_ns(), os.urandom(10))
    place = {"producer": "trainer", "sequence": 1, "incarnation": 1, "timeline": 1}
    event = new_event(started, event_id=event_id, run_id="run", recorded_at_ns=time.time_ns(), **place)
    signed = ring.sign(event.SerializeToString())
    headers = ((HEADER_KEY_ID, signed.key_id.encode()), (HEADER_SIGNATURE, signed.signature))
    with Archive(data / "archive", ring) as archive:
        archive.append([StoredRecord("esper.runs", 0, 0, 1, b"run", signed.payload, headers)])
    assert dispatch(["export", "run", "--data-dir", str(data), "--to", str(to), "--with-objects"]) == 0
    assert dispatch(["verify", str(to)]) == 0
    printed = "".join(capsys.readouterr())
    everything = b"\n".join([printed.encode(), *map(contents, (path for path in to.rglob("*") if path.is_file()))])

    for found in (PLANTED, key_id(bytes.fromhex(KEY))):  # what is in an event is found, and so is the id of its key
        assert found.encode() in everything
    for secret in (KEY, PREVIOUS):
        assert secret.encode() not in everything
        assert bytes.fromhex(secret) not in everything


def contents(path: Path) -> bytes:
    """Everything in a file, as it lies and as its readers see it."""
    raw = path.read_bytes()
    if path.suffix == ".zst":
        return raw + zstandard.ZstdDecompressor().decompress(raw)
    if path.suffix != ".parquet":
        return raw
    return raw + b"\n".join(values(pq.read_table(path).to_pylist()))


def values(value: object) -> Iterator[bytes]:
    """Every text and every bytes in a nest of lists and dictionaries."""
    if isinstance(value, dict):
        yield from values([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from values(each)
    else:
        yield value if isinstance(value, bytes) else str(value).encode()


def start_worker(data: Path, brokers: str) -> subprocess.Popen[str]:
    environment = os.environ | {"ESPER_KEY": KEY, "ESPER_KEY_PREVIOUS": PREVIOUS}
    return subprocess.Popen(
        [sys.executable, "-m", "streams.worker", "--data-dir", data, "--brokers", brokers],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def publish(brokers: str, secret: str) -> None:
    """One fact of a run, signed with `secret`."""
    with LogWriter(brokers, KeyRing((bytes.fromhex(secret),)), producer="trainer", metrics=Metrics()) as writer:
        event_id = ids.uuid7(time.time_ns(), os.urandom(10))
        body = StateDigested(occasion="epoch")
        writer.publish(
            new_event(body, event_id=event_id, run_id="run", producer="trainer", recorded_at_ns=time.time_ns())
        )
        writer.flush()


def wait_for_failures(port: int) -> bytes:
    """The worker's metrics and health once it has refused the stranger's record."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        metrics = fetch(f"http://127.0.0.1:{port}/metrics")
        if b"esper_security_signature_fail_total" in metrics:
            return metrics + fetch(f"http://127.0.0.1:{port}/health")
        time.sleep(0.1)
    raise AssertionError("the worker never counted the stranger's signature")


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as response:
        return response.read()
