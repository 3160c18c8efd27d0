"""The processes by hand, as docs/getting-started.md shows them: without a supervisor, on an address of one's own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from streams.broker.launch import start_broker

pytestmark = pytest.mark.cold


def test_a_trainer_runs_on_processes_that_were_started_by_hand(esper):
    esper.data_dir.mkdir()
    broker = start_broker(esper.data_dir)
    place = ["--data-dir", str(esper.data_dir)]
    decider = subprocess.Popen(
        [sys.executable, "-m", "streams.decider", *place, "--brokers", broker.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert json.loads(decider.stdout.readline())["ready"] is True
        config = json.dumps({"task": "spirals", "epochs": 1})
        command = [sys.executable, "-m", "esper.weatherlight.trainer", *place, "--run-id", "mine", "--config", config]
        done = subprocess.run(command, input=broker.address, capture_output=True, text=True, check=True, timeout=60)
        prepared, result = map(json.loads, done.stdout.splitlines())
        assert prepared == {"prepared": True}
        assert (result["result"]["run_id"], result["result"]["status"]) == ("mine", "completed")
        nobody = subprocess.run(command, input="", capture_output=True, text=True, check=False, timeout=60)
        assert nobody.returncode == 2
        assert json.loads(nobody.stdout.splitlines()[-1])["wrong_input"] is True
    finally:
        decider.terminate()
        decider.communicate(timeout=10)
        broker.stop()
