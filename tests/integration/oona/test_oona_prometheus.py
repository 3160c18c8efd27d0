"""A real Prometheus scrapes a real process by the list of targets that it writes, with the rules of `deploy/`."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from contracts.leyline.v1 import event_pb2

DEPLOY = Path(__file__).parents[3] / "deploy"
PROMETHEUS = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus: `apt-get install prometheus` brings it")


@pytest.fixture
def prometheus(tmp_path, data_dir):
    """Its address; it looks at the data folder's lists once a second, all else is as in `deploy/prometheus.yml`."""
    told = (
        (DEPLOY / "prometheus.yml").read_text("utf-8").replace("/data/run", str(data_dir / "run")).replace("15s", "1s")
    )
    (tmp_path / "prometheus.yml").write_text(told, "utf-8")
    for name in ("alerts.yml", "slo.yml"):
        shutil.copy(DEPLOY / name, tmp_path / name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        PROMETHEUS,
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    yield f"http://{address}"
    process.kill()
    process.wait()


def until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert condition()


@pytest.mark.requirement("R-NIS-24")
def test_what_a_process_serves_can_be_asked_for(log, data_dir, start_process, writer, events, prometheus):
    start_process("worker", data_dir, log.address)
    for _ in range(2):
        writer.publish(events.fact(event_pb2.EpochCompleted(hook_ms_before=40.0)))
    writer.flush()

    def value(query):
        try:
            found = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).json()["data"]["result"]
        except httpx.HTTPError:
            return None
        return float(found[0]["value"][1]) if found else None

    until(lambda: value(f'esper_tolaria_hook_own_seconds{{run="{events.run_id}", process="worker"}}') == 0.04)
    rules = httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"]

    assert {group["name"] for group in rules} >= {"esper", "slo", "slo_slow", "slo_alerts"}
    until(lambda: value('ALERTS{alertname="training_latency_high"}') == 1.0)
