"""What only time shows, under `-m soak`: ordinary runs alarm nobody, and the page keeps up with a load.

`ESPER_SOAK_RUNS` (20) and `ESPER_SOAK_S` (600) say how much of it, for a try.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from esper.weatherlight import client

pytestmark = pytest.mark.soak

RUNS = int(os.environ.get("ESPER_SOAK_RUNS", "20"))
SECONDS = float(os.environ.get("ESPER_SOAK_S", "600"))
TASKS = ("spirals", "digits", "chars")
FACTS_A_S, TELEMETRY_A_S, CLIENTS = 1_000, 10_000, 20
WARM = 3
"""Memory counts from a third of the time on: caches are full by then."""
GROWS = 1.25


@contextmanager
def every_core_busy() -> Iterator[None]:
    """A process that computes beside each core's work."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for each in burners:
            each.kill()
            each.wait()


@pytest.mark.timeout(4 * 3600)
@pytest.mark.requirement("R-NIS-5")
def test_ordinary_runs_on_a_busy_machine_alarm_nobody(esper):
    up = esper.start("up", "--json")
    assert up.stdout is not None
    up.stdout.readline()
    with every_core_busy():
        for seed in range(RUNS):
            esper("run", "--task", TASKS[seed % len(TASKS)], "--seed", str(seed), "--json", timeout_s=3_600.0)
    fired = esper.json("sql", "select rule, run_id, value from log.alert_fired")
    up.terminate()
    up.communicate()

    assert fired == []


class Page(threading.Thread):
    """Somebody who has the page open: when which overview came."""

    def __init__(self, port: int, came: dict[int, list[float]], over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._port, self._came, self._over = port, came, over

    def run(self) -> None:
        """Hear until it is over."""
        wsproto = pytest.importorskip("wsproto")
        with socket.create_connection(("127.0.0.1", self._port), 30) as wire:
            wire.settimeout(1.0)
            end = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
            wire.sendall(end.send(wsproto.events.Request(host=f"127.0.0.1:{self._port}", target="/ws/stream")))
            text = ""
            while not self._over.is_set():
                try:
                    end.receive_data(wire.recv(65536) or None)
                except TimeoutError:
                    continue
                for event in end.events():
                    if isinstance(event, wsproto.events.TextMessage):
                        text += event.data
                        if event.message_finished:
                            self._came[json.loads(text)["number"]].append(time.monotonic())
                            text = ""


def memory_kib(pid: int) -> int:
    return psutil.Process(pid).memory_info().rss // 1024


@pytest.mark.timeout(4 * 3600)
@pytest.mark.requirement("R-NIS-19")
def test_a_load_for_ten_minutes_with_twenty_pages_open_loses_no_fact(esper, tmp_path):
    """What is shed is counted, every page has each overview within a second of the first, and memory stays flat."""
    up, served = esper.start("up", "--json"), esper.start("serve", "--json")
    up.stdout.readline()
    port = int(re.search(r":(\d+)/", served.stdout.readline())[1])
    running = client.status(esper.data_dir)
    pids = {each.name: each.pid for each in running.services if each.pid} | {"page": served.pid}
    came, over = defaultdict(list), threading.Event()
    pages = [Page(port, came, over) for _ in range(CLIENTS)]
    for page in pages:
        page.start()
    words = ("--brokers", running.brokers, "--data-dir", str(esper.data_dir), "--seconds", str(SECONDS), "--json")
    rates = ("--rate", str(TELEMETRY_A_S), "--facts", str(FACTS_A_S))
    load = subprocess.Popen(
        [sys.executable, "-m", "streams.loadtest", *words, *rates], stdout=subprocess.PIPE, text=True
    )
    time.sleep(SECONDS / WARM)
    warm = {name: memory_kib(pid) for name, pid in pids.items()}
    said, _ = load.communicate(timeout=SECONDS + 600)
    last = {name: memory_kib(pid) for name, pid in pids.items()}
    over.set()
    for page in pages:
        page.join(30)
    report = json.loads(said.splitlines()[-1])
    archived = "select count(distinct sequence) as n, max(sequence) as last from log.state_digested"
    esper.wait_until(lambda: esper.json("sql", archived)[0]["n"] >= FACTS_A_S * SECONDS * 0.99, 120.0, 1.0)
    (facts,) = esper.json("sql", archived)
    spread = max(max(times) - min(times) for times in came.values())
    figures = {"report": report, "facts": facts, "spread_s": spread, "overviews": len(came), "kib": [warm, last]}
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    for process in (served, up):
        process.terminate()
        process.communicate()

    assert (facts["n"], load.returncode, report["lost"]) == (facts["last"], 0, 0), figures
    assert spread <= 1.0, figures
    assert all(last[name] <= GROWS * warm[name] for name in pids), figures
