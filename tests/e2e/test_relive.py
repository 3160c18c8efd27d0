"""Killed, resumed, forked and lived again: with processes, a broker and an archive, as a person does it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from esper.record import replay
from esper.tolaria.config import RunConfig
from projections import open_history
from projections.lineage import facts
from tests.e2e.conftest import SLOW
from tests.forked import Forked, Forks

EPOCHS = 40
WAY = 16
CUT = 12
"""Epochs, each of twelve steps. What is to be stopped half-way gets ever slower until it has been (`go_on`)."""
SOURCE = "file:" + hashlib.sha256(Path(SLOW.rpartition(":")[0]).read_bytes()).hexdigest()
CONFIG = RunConfig(task=SLOW, seed=5, epochs=EPOCHS, decision_timeout_s=None)
DEATHS = 2
SOAK = pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])


class House:
    """The processes that serve trainers, kept by `esper up`, and trainers."""

    def __init__(self, esper, forks: Forks, epochs: int = EPOCHS) -> None:
        self.esper = esper
        self._config = replace(CONFIG, epochs=epochs).to_json()
        self.up = esper.start("up", "--json")
        self._forks = forks
        self.brokers = json.loads(self.up.stdout.readline())["brokers"]

    def train(self, run_id: str, plan: str = "{}") -> Forked:
        """A trainer's process; it begins at once."""
        return self._forks.start(
            "esper.weatherlight.trainer:run",
            *("--data-dir", str(self.esper.data_dir), "--run-id", run_id, "--config", self._config, "--plan", plan),
            log=self.esper.data_dir / "run" / f"trainer-{run_id}.log",
            told=f"{self.brokers}\n",
        )

    def resume(self, run_id: str) -> Forked:
        """A trainer's process that goes on with it, on the task's file that the run recorded."""
        return self.train(run_id, json.dumps({"begin": "resume", "source": SOURCE}))

    def facts(self, run_id: str) -> list:
        """What the archive has of a run."""
        if not (self.esper.data_dir / "archive").is_dir():
            return []
        with open_history(self.esper.data_dir / "archive") as history:
            return list(facts(history, run_id))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for what an archive has: each look opens it anew."""
        self.esper.wait_until(condition, 120.0, every_s=0.2)

    def wait_for_epoch(self, run_id: str, epoch: int) -> None:
        self.wait_until(lambda: any(fact.epoch >= epoch for fact in self.facts(run_id)))

    def whole(self, run_id: str) -> list:
        """The facts of a run that is over."""
        self.wait_until(lambda: any(fact.HasField("run_finished") for fact in self.facts(run_id)))
        return self.facts(run_id)

    def close(self) -> None:
        self.up.send_signal(signal.SIGINT)
        self.up.communicate(timeout=20)


@pytest.fixture(scope="module")
def house(shared_esper, forks):
    made = House(shared_esper, forks)
    yield made
    made.close()


def digests(run: list) -> list[tuple[int, bytes]]:
    """The digests that count at the ends of epochs."""
    state = replay(run)
    assert state.problem is None
    kept: dict[int, bytes] = {}
    for fact in run:
        if fact.HasField("state_digested") and fact.state_digested.occasion == "epoch":
            kept[fact.global_step] = fact.state_digested.root
    return sorted(kept.items())


def kill_at_random(house: House, run_id: str, chance: random.Random, most: int, go_on: Path) -> int:
    """Train to the end, killed at most so often, each time when it had gone on; how often it was killed."""
    go_on.unlink()
    trainer = house.train(run_id)
    house.wait_for_epoch(run_id, 1)
    killed = 0
    while killed < most:
        time.sleep(chance.uniform(0.0, 0.4))
        if trainer.is_over:
            break
        trainer.kill()
        killed += 1
        seen = len(house.facts(run_id))
        trainer = house.resume(run_id)
        house.wait_until(lambda t=trainer, n=seen: len(house.facts(run_id)) > n or t.is_over)
    go_on.touch()
    last = trainer.last_word()
    # Whoever was killed between the run's last word and its own end finds it over.
    assert last.get("result", {}).get("status") == "completed" or "is over (completed)" in last["error"], last
    return killed


@pytest.mark.parametrize("deaths", [DEATHS, SOAK])
def test_a_trainer_that_is_killed_over_and_over_ends_as_one_that_lived(house, deaths, go_on):
    """As many runs as so many deaths take: each is killed until it is over."""
    chance = random.Random(random.random())
    go_on.touch()
    assert house.train(f"whole-{deaths}").last_word()["result"]["status"] == "completed"
    lived = digests(house.whole(f"whole-{deaths}"))
    runs, died = 0, 0
    while died < deaths:
        run_id = f"killed-{deaths}-{runs}"
        killed = kill_at_random(house, run_id, chance, deaths - died, go_on)
        runs, died = runs + 1, died + killed

        assert digests(house.whole(run_id)) == lived
        assert (replay(house.facts(run_id)).incarnation > 1) == (killed > 0)


def test_of_two_that_resume_a_run_at_once_one_wins(house, go_on):
    trainer = house.train("wanted")
    house.wait_for_epoch("wanted", 2)
    trainer.kill()
    both = [house.resume("wanted") for _ in range(2)]
    house.wait_until(lambda: any(each.is_over for each in both))
    go_on.touch()
    messages = [each.last_word() for each in both]

    won, lost = sorted(messages, key=lambda message: "error" in message)
    assert won["result"]["status"] == "completed"
    assert "run wanted was taken over by another process that resumed it" in lost["error"]
    state = replay(house.whole("wanted"))
    assert (state.problem, state.status, state.model.epoch) == (None, "completed", EPOCHS)
    (row,) = house.esper.json("sql", "select status, epochs_done, incarnation from runs where run_id = 'wanted'")
    assert row == {"status": "completed", "epochs_done": EPOCHS, "incarnation": state.incarnation}


def test_a_trainer_that_was_only_asleep_stops_when_it_finds_its_run_taken(house, go_on):
    zombie = house.train("asleep")
    house.wait_for_epoch("asleep", 2)
    os.kill(zombie.pid, signal.SIGSTOP)
    go_on.touch()
    assert house.resume("asleep").last_word()["result"]["status"] == "completed"
    os.kill(zombie.pid, signal.SIGCONT)

    assert "was taken over by another process" in zombie.last_word()["error"]
    state = replay(house.whole("asleep"))
    assert (state.problem, state.status, state.incarnation) == (None, "completed", 2)


@pytest.mark.timeout(600)
def test_a_persons_way_from_ctrl_c_to_a_fork(esper, go_on):
    """Interrupted with its control run, resumed, replayed, forked twice; each command says what the next needs."""
    running = esper.start("run", "--task", SLOW, "--epochs", str(WAY), "--seed", "5", "--no-static")
    for line in running.stdout:
        if line.startswith("grown") and "epoch 3/" in line:  # the control run waits for no kernels and is ahead
            break
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    go_on.touch()
    run_id = esper.json("runs")[0]["run_id"].removesuffix("-control")
    assert f"`esper resume {run_id}` goes on from there" in err
    up = esper.start("up", "--json")  # spares all that follows the start of a log of its own
    up.stdout.readline()

    resumed = esper.json("resume", run_id)
    assert (resumed["run_id"], resumed["epochs"]) == (run_id, WAY)
    assert {run["status"] for run in esper.json("runs")} == {"completed"}
    assert resumed["control_val_accuracy"] is not None
    over = esper("resume", run_id, code=2)
    assert f"run {run_id} is over (completed): there is nothing to resume" in over.stderr

    replayed = esper.json("replay", run_id)
    assert (replayed["diverged"], replayed["to_step"], replayed["differences"]) == (False, 12 * WAY, [])
    assert replayed["digests_checked"] > WAY
    assert replayed["decisions_checked"] == WAY
    assert "replays bit for bit" in esper("replay", run_id, "--from", "100").stdout
    beyond = esper("replay", run_id, "--from", "999", code=2)
    assert f"has the steps 0 to {12 * WAY}" in beyond.stderr

    same = esper.json("fork", run_id, "--at", "60", "--do", "nothing")
    assert (same["parent_run_id"], same["change"]) == (run_id, "nothing")
    if not esper.json("sql", "select 1 from log.decision_timed_out"):  # one that comes too late is another decision
        assert (same["same_as_parent"], same["parts_at_step"]) == (True, None)
    other = esper.json("fork", run_id, "--at", "0", "--do", "germinate s3 BP009")
    assert (other["same_as_parent"], other["parts_at_step"]) == (False, 0)
    chain = esper("why", other["run_id"], "s3").stdout
    assert "adaptation_command" in chain
    refused = esper("fork", run_id, "--at", "60", "--do", "cull s9", code=2)
    assert "there is no seed 's9'" in refused.stderr
    up.send_signal(signal.SIGINT)
    up.communicate(timeout=20)


def test_a_task_that_was_changed_since_is_replayed_as_it_was(esper, tmp_path):
    task = tmp_path / "mine.py"
    task.write_text((Path(__file__).parent / "own_task.py").read_text())
    esper("run", "--task", f"{task}:task", "--epochs", "2", "--no-control")
    task.write_text("raise SystemExit('changed since')\n")

    assert esper.json("replay", "last")["diverged"] is False  # on the source that the run kept


def test_a_power_cut_costs_no_run(esper, go_on):
    """Everything dies at once, and the disk keeps less than was written: the run goes on from what there is."""
    running = esper.start("run", "--task", SLOW, "--epochs", str(CUT), "--seed", "5", "--no-control")
    for line in running.stdout:
        if "epoch 4/" in line:
            break
    for process in esper.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # its parent's death was its own
            process.send_signal(signal.SIGKILL)
    running.communicate()
    esper.wait_until(lambda: not esper.processes())
    go_on.touch()
    cut = [
        path for path in (esper.data_dir / "log").rglob("*.log") if "esper.runs" in str(path) and path.stat().st_size
    ]
    for path in cut:
        os.truncate(path, max(0, path.stat().st_size - 700))
    assert cut

    resumed = esper.json("resume", "last")
    assert resumed["epochs"] == CUT
    assert esper.json("runs")[0]["status"] == "completed"
    assert esper.json("replay", "last")["diverged"] is False
