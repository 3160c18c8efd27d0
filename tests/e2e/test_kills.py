"""`kill -9` at random moments: nothing acknowledged is lost, nothing counts twice, all but the trainer come back.

The moments follow pytest-randomly's seed, which pytest prints: `pytest --randomly-seed=N` draws them again.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest

from contracts.leyline.v1.event_pb2 import DecisionMade, DecisionTimedOut
from contracts.leyline.v1.leyline_pb2 import CIRCUIT_BREAKER_STATE_OPEN
from contracts.topics import RUNS
from esper.kasmina.lifecycle import name as stage_name
from esper.record import accepted_facts, replay
from projections import manifest, open_history
from projections.run_queries import EventReader
from tests.e2e.conftest import SLOW

EPOCHS = 40
"""Of a task that gets ever slower until all that is to be killed was (`go_on`)."""
SUPERVISED = ("broker", "decider", "worker", "archiver", "forge")
KILLS = 2
"""Of each process in a run of the soak; without it each dies once."""
SOAKS = [pytest.param(n, marks=pytest.mark.soak) for n in range(1, 26)]
"""25 runs of two kills each: fifty of every process."""


class Running:
    """An `esper run` whose progress is read as it comes."""

    def __init__(self, esper, *arguments: str) -> None:
        self.process = esper.start("run", "--no-control", "--json", *arguments)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def said(self, text: str) -> bool:
        """Whether a line of its progress has `text` in it; fails the test where it has ended without."""
        if any(text in line for line in self.lines):
            return True
        assert self.process.poll() is None, self.lines
        return False

    def end(self, timeout_s: float = 120.0) -> int:
        """Its exit code, once it has ended and everything that it said is in `lines`."""
        code = self.process.wait(timeout_s)
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return code


def _kill_at_random(esper, running: Running, chooser: random.Random, kills: int) -> None:
    """Kill each of the supervised processes so often, in any order and at any moment, down or coming up."""
    victims = [name for name in SUPERVISED for _ in range(kills)]
    chooser.shuffle(victims)
    for victim in victims:
        time.sleep(chooser.uniform(0.0, 0.6))
        assert running.process.poll() is None, "the run ended before all kills were done"
        found = esper.wait_until(lambda name=victim: esper.named(name))
        os.kill(found[0].pid, signal.SIGKILL)
        esper.wait_until(lambda pid=found[0].pid: pid not in {p.pid for p in esper.processes()})


def _assert_whole(esper, run_id: str) -> None:
    """The archive holds every fact of a run once, and its three readers agree."""
    with open_history(esper.data_dir / "archive") as history:
        events = list(EventReader(history, run_id).new())
        rows = history.execute("select seed_id, stage from seeds where run_id = ? order by 1", [run_id]).fetchall()
        (duplicates,) = history.execute(
            "select count(*) - count(distinct sequence) from events where run_id = ? and topic = ?", [run_id, RUNS.name]
        ).fetchone()
    facts = [event for event in events if event.sequence]
    assert [fact.sequence for fact in facts] == list(range(1, len(facts) + 1))
    assert duplicates == 0
    assert manifest.load(esper.data_dir / "archive").gaps == ()
    state = replay(facts)
    assert state.problem is None
    folded = [(seed.seed_id, stage_name(seed.stage)) for seed in state.seeds.values()]
    assert sorted(folded) == rows
    live = next(fact.epoch_completed for fact in reversed(facts) if fact.WhichOneof("body") == "epoch_completed")
    assert sorted((seed.seed_id, stage_name(seed.stage)) for seed in live.seeds) == rows


def _assert_answered(esper, run_id: str, epochs: int) -> None:
    """Every packet has one decision, or the fact that it came too late, or the run had given up asking for a while."""
    with open_history(esper.data_dir / "archive") as history:
        events = list(EventReader(history, run_id).new())
    bodies = [getattr(event, event.WhichOneof("body")) for event in events]
    decided = {body.packet_id for body in bodies if isinstance(body, DecisionMade)}
    late = {body.packet_id for body in bodies if isinstance(body, DecisionTimedOut)}
    reached, asked = [], True
    for fact in accepted_facts(event for event in events if event.sequence).facts:
        if fact.HasField("breaker_changed") and fact.breaker_changed.breaker == "tamiyo":
            asked = fact.breaker_changed.to_state != CIRCUIT_BREAKER_STATE_OPEN
        if fact.HasField("epoch_completed"):
            reached.append(fact.epoch)
            assert not asked or fact.event_id in decided | late, f"epoch {fact.epoch} has no answer"
    assert reached == list(range(1, epochs + 1))
    decisions = [event.event_id for event in events if event.HasField("decision_made")]
    assert len(set(decisions)) == len(decided), "two decisions on one packet"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("soak", [0, *SOAKS])
def test_a_run_survives_the_death_of_every_supervised_process(esper, soak, go_on):
    chooser = random.Random(f"{random.random()} {soak}")
    running = Running(esper, "--task", SLOW, "--epochs", str(EPOCHS))
    esper.wait_until(lambda: running.said("epoch 1/"), 60.0)
    _kill_at_random(esper, running, chooser, KILLS if soak else 1)
    go_on.touch()
    assert running.end(400.0) == 0, (running.lines, esper.logs())
    (run,) = esper.json("runs")
    assert (run["status"], run["epochs_done"]) == ("completed", EPOCHS)
    _assert_whole(esper, run["run_id"])
    _assert_answered(esper, run["run_id"], EPOCHS)


@pytest.mark.parametrize("soak", [0, *SOAKS])
def test_a_dead_trainers_history_is_readable(esper, soak):
    chooser = random.Random(f"{random.random()} {soak}")
    up = esper.start("up", "--json")  # spares every run the start of the log
    up.stdout.readline()
    for _ in range(KILLS if soak else 1):
        running = Running(esper, "--task", "spirals", "--epochs", "2000")
        esper.wait_until(lambda running=running: running.said("epoch 1/"), 60.0)
        time.sleep(chooser.uniform(0.0, 1.0))
        os.kill(esper.find("trainer").pid, signal.SIGKILL)
        assert running.end(30.0) == 1
        assert "was killed by SIGKILL" in running.lines[-1]
        assert "what was recorded is kept: `esper events" in running.lines[-1]
        run = esper.json("runs")[0]
        seen = max(
            int(line.split("epoch ")[1].split("/")[0]) for line in running.lines if "epoch " in line and "/" in line
        )
        assert run["epochs_done"] >= seen
        assert esper("events", run["run_id"], "--type", "epoch_completed").stdout.count("\n") == run["epochs_done"]
        _assert_whole(esper, run["run_id"])
    up.send_signal(signal.SIGINT)
    up.communicate(timeout=10)


def test_two_runs_at_once_do_not_disturb_each_other(esper):
    both = [Running(esper, "--task", "spirals", "--epochs", "6", "--seed", "5") for _ in range(2)]
    assert [running.end() for running in both] == [0, 0]
    runs = esper.json("runs")
    assert len({run["run_id"] for run in runs}) == 2
    for run in runs:
        _assert_whole(esper, run["run_id"])
    # Of one seed, so they are the same to the bit, as far as no decision came too late on a busy machine.
    query = (
        "select global_step, occasion, count(distinct root) as roots, count(*) as digests from log.state_digested "
        "where global_step <= (select coalesce(min(global_step), 1e9) from log.decision_timed_out) group by all"
    )
    digests = esper.json("sql", query)
    assert {digest["occasion"] for digest in digests} >= {"start", "epoch"}
    assert all((digest["roots"], digest["digests"]) == (1, 2) for digest in digests), digests
