"""No secret reaches the data folder, what a process prints, or its metrics (R-SEC-13)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from contracts.leyline.v1.event_pb2 import StateDigested
from esper.leyline import ids
from esper.leyline.envelope import new_event
from esper.leyline.signing import KeyRing, key_id
from streams.broker.launch import start_broker
from streams.metrics import Metrics
from streams.writer import LogWriter

KEY, PREVIOUS, STRANGER = "a1" * 32, "b2" * 32, "c3" * 32


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
    on_disk = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    everything = b"\n".join([*on_disk.values(), metrics, printed.encode(), complained.encode()])

    assert len(on_disk) > 5
    assert key_id(bytes.fromhex(KEY)).encode() in everything  # keys are known by their ids, and these are there
    for secret in (KEY, PREVIOUS, STRANGER):
        assert secret.encode() not in everything
        assert bytes.fromhex(secret) not in everything


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
