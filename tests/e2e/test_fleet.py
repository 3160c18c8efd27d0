"""Runs that were asked for, trained by whoever works, of whom some die or sleep: all complete, as on one machine.

Short on the embedded log, with two workers of one data folder. Under `-m soak` on three brokers of Apache Kafka, with
four machines, which are data folders that have nothing in common but the log and the objects.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from contextlib import closing

import psutil
import pytest

from esper.cli.replay import recorded_run
from esper.cli.tail import LogTail
from esper.leyline.envelope import Event
from esper.leyline.signing import KeyRing
from esper.weatherlight import client
from projections import open_history
from streams.access import know_own
from streams.keys import load_key_ring
from streams.settings import Settings
from streams.work import WorkLog
from tests.e2e.conftest import SLOW, Esper, _kill_what_is_left
from tests.kafka import MISSING, USER, Kafka

EPOCHS = 12
KEY = "5e" * 32
RUNS = 20
SWEEP = f"""
task: [{SLOW}, {SLOW}]  # the same again: what is undisturbed beside what is not
seeds: 3
epochs: {EPOCHS}
"""


def takes(worker: subprocess.Popen[str]) -> str:
    """The run that a worker says it takes next."""
    for line in worker.stdout:
        if "takes run " in line:
            return line.split("takes run ")[1].split()[0]
    raise AssertionError(f"it ended without: {worker.stderr.read()}")


def digests(esper: Esper, run_id: str) -> list[tuple[int, bytes]]:
    """Those of the ends of epochs that count."""
    with open_history(esper.data_dir / "archive") as history:
        facts = recorded_run(history, run_id).facts
    return [
        (fact.global_step, fact.state_digested.root)
        for fact in facts
        if fact.HasField("state_digested") and fact.state_digested.occasion == "epoch"
    ]


def kept(esper: Esper, run_id: str) -> Event:
    """The first checkpoint of a run that says on the log that it has trained, as soon as it does."""
    settings, brokers = Settings.load(data=esper.data_dir), client.status(esper.data_dir).brokers
    know_own(brokers, settings)
    with closing(LogTail(brokers, load_key_ring(settings, brokers), [run_id])) as tail:
        while (event := tail.take(60.0)) is not None:
            if event.checkpoint_saved.step:
                return event
    raise AssertionError(f"run {run_id} has kept no checkpoint")


def test_a_worker_that_is_killed_loses_nothing_and_its_run_is_bit_for_bit_what_it_would_have_been(
    esper, tmp_path, go_on
):
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    asked = esper.json("submit", str(tmp_path / "sweep.yaml"))["runs"]
    queued = Counter(run["status"] for run in esper.json("runs"))
    killed = esper.start("work", "--lease", "5")
    other = esper.start("work", "--lease", "5", "--until-empty", "--json")
    run_id = takes(killed)
    checkpoint = kept(esper, run_id)
    killed.kill()  # its run gets ever slower, so it is not over
    killed.communicate()
    go_on.touch()
    said, _ = other.communicate(timeout=200)
    runs = {run["run_id"]: run for run in esper.json("runs")}
    trained = {run["run_id"] for run in json.loads(said)["runs"]}
    (went_on,) = esper.json("sql", f"select from_step, global_step from log.run_resumed where run_id = '{run_id}'")

    assert queued == {"queued": 2}
    assert [(runs[each["run_id"]]["status"], runs[each["run_id"]]["epochs_done"]) for each in asked] == [
        ("completed", EPOCHS)
    ] * 2
    assert run_id in trained
    assert runs[run_id]["work"]["attempts"] == 2
    assert went_on["from_step"] >= checkpoint.checkpoint_saved.step, "it went on from this checkpoint or a later one"
    assert went_on["global_step"] >= checkpoint.global_step
    one, two = (digests(esper, each["run_id"]) for each in asked)
    assert one == two
    assert len(one) == EPOCHS


@pytest.mark.soak
@pytest.mark.timeout(7_200)
# aiokafka waits for no connection that it closes: with TLS a loop may end before both sides have said so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(bool(MISSING), reason=MISSING or "it is all there")
def test_four_machines_one_killed_and_one_asleep_come_to_what_one_machine_comes_to(tmp_path, monkeypatch):
    """Twenty runs. A machine is killed with all its processes, another one sleeps for a minute with all of its own."""
    sweep = ("submit", "digits", "--seeds", f"0..{RUNS - 1}", "--epochs", "24", "--json")
    alone = Esper(tmp_path / "alone")
    cluster = Kafka(tmp_path / "kafka", "password")
    machines = [Esper(tmp_path / f"machine-{number}") for number in range(4)]
    desk = Esper(tmp_path / "desk")
    try:
        reference = json.loads(alone(*sweep).stdout.splitlines()[-1])["runs"]
        alone("work", "--slots", "2", "--until-empty", timeout_s=3_000)
        cluster.start()
        cluster.allow("fleet.")
        for name, value in {
            "BROKERS": cluster.brokers,
            "KEY": KEY,
            "SECURITY_PROTOCOL": "SASL_SSL",
            "SASL_USERNAME": USER,
            "SASL_PASSWORD": "password",
            "SSL_CAFILE": str(cluster.certificate),
            "TOPIC_PREFIX": "fleet.",
            "PARTITIONS": "4",
            "OBJECTS_URL": str(tmp_path / "objects"),
        }.items():
            monkeypatch.setenv(f"ESPER_{name}", value)
        up = desk.start("up", "--json")
        up.stdout.readline()
        workers, names = [], []
        for machine in machines:  # one after the other: all at once they would wait for each other on two cores
            workers.append(machine.start("work", "--lease", "15"))
            names.append(workers[-1].stdout.readline().split("worker ")[1].split()[0])
        asked = {run["run_id"] for run in json.loads(desk(*sweep).stdout.splitlines()[-1])["runs"]}
        with WorkLog(cluster.brokers, KeyRing((bytes.fromhex(KEY),))) as log:

            def trained() -> list[str]:
                """The runs of the two machines that are struck, once both have a checkpoint that everybody can see."""
                kept = {row["run_id"] for row in desk.json("sql", "select distinct run_id from log.checkpoint_saved")}
                with log.look() as work:
                    mine = [each.run_id for name in names[:2] for each in work.runs.values() if each.worker == name]
                return mine if len(mine) == 2 and kept.issuperset(mine) else []

            first, second = desk.wait_until(trained, 600, 0.5)
            _signal_all(machines[0], signal.SIGKILL)
            _signal_all(machines[1], signal.SIGSTOP)
            time.sleep(60)
            _signal_all(machines[1], signal.SIGCONT)
            assert log.wait_for(lambda work: all(run.over for run in work.runs.values()), 3_000)
        for worker in workers[1:]:
            worker.send_signal(signal.SIGINT)
            worker.communicate(timeout=120)
        desk.wait_until(lambda: {run["status"] for run in desk.json("runs")} == {"completed"}, 120, 1.0)
        runs = {run["run_id"]: run for run in desk.json("runs")}
        resumed = desk.json("sql", "select run_id, incarnation, global_step from log.run_resumed order by all")

        assert set(runs) == asked
        assert len(runs) == RUNS
        assert runs[first]["work"]["attempts"] > 1
        assert [row for row in resumed if row["run_id"] == first and row["global_step"]], (first, second, resumed)
        expected = {run["labels"]["seed"]: digests(alone, run["run_id"]) for run in reference}
        assert {run["work"]["labels"]["seed"]: digests(desk, run_id) for run_id, run in runs.items()} == expected
        assert min(map(len, expected.values())) == 24
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=120)
    finally:
        for each in (alone, desk, *machines):
            _signal_all(each, signal.SIGCONT)
            for process in each.started:
                process.kill()
            _kill_what_is_left_quietly(each)
        cluster.kill()


def _signal_all(machine: Esper, number: int) -> None:
    """Every process of a machine at once, as where its power goes or its lid is shut."""
    for process in [
        *machine.processes(),
        *(psutil.Process(each.pid) for each in machine.started if each.poll() is None),
    ]:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            continue


def _kill_what_is_left_quietly(machine: Esper) -> None:
    try:
        _kill_what_is_left(machine)
    except AssertionError:
        return
