"""What the pods of deploy/kubernetes run, run: each command in a data folder of its own, on one log, with one key."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from esper.cli import INTERRUPTED

BASE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "base"
SERVED = ("esper", "decider", "forge", "trainer")


def command_of(name: str) -> list[str]:
    """The command of a workload, by this environment's Python."""
    (made, *_) = yaml.safe_load_all((BASE / f"{name}.yaml").read_text(encoding="utf-8"))
    spec: dict[str, Any] = made["spec"].get("jobTemplate", made)["spec"]
    program, *words = spec["template"]["spec"]["containers"][0]["command"]
    return [sys.executable, *words] if program == "python" else [sys.executable, "-m", "esper.cli", *words]


def ready(environment: dict[str, str], *, alive: bool = False) -> bool:
    command = [sys.executable, "-m", "streams.healthcheck", *(["--alive"] if alive else [])]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def listed(environment: dict[str, str]) -> list[dict[str, Any]]:
    """The runs in the archive of that folder."""
    asked = [sys.executable, "-m", "esper.cli", "runs", "--json"]
    return json.loads(subprocess.run(asked, env=environment, capture_output=True, check=True).stdout)


@pytest.mark.soak
def test_pods_in_folders_of_their_own_train_what_is_submitted_and_keep_it(esper, tmp_path):
    """Everything of the base beside the log: a job's run and a submitted one, archived by the pod that keeps it."""
    broker = esper.start("broker", "--anonymous", "--json")
    address = json.loads(broker.stdout.readline())["brokers"]
    shared = {"ESPER_BROKERS": address, "ESPER_KEY": "ab" * 32, "ESPER_OBJECTS_URL": str(tmp_path / "objects")}
    places = {name: os.environ | shared | {"ESPER_DATA": str(tmp_path / name)} for name in (*SERVED, "run")}
    running: list[subprocess.Popen[bytes]] = []
    try:
        running += [subprocess.Popen(command_of(name), env=places[name]) for name in SERVED]
        for name in SERVED:
            esper.wait_until(lambda place=places[name]: ready(place), timeout_s=120.0, every_s=0.5)
        job = subprocess.run(command_of("run"), env=places["run"], capture_output=True, text=True, check=True)
        submit = [sys.executable, "-m", "esper.cli", "submit", "digits", "--set", "epochs=2", "--wait"]
        subprocess.run(submit, env=places["esper"], check=True, timeout=300)
        run = json.loads(job.stdout.splitlines()[-1])["run_id"]

        assert run in {each["run_id"] for each in listed(places["esper"])}
        assert {each["status"] for each in listed(places["esper"])} == {"completed"}
        assert len(listed(places["esper"])) >= 2
    finally:
        for process in running:
            process.send_signal(signal.SIGINT)  # the image's STOPSIGNAL
        codes = [process.wait(30) for process in running]
        broker.terminate()
        broker.wait(30)
    assert set(codes) <= {0, INTERRUPTED}
    assert not ready(places["decider"], alive=True)
