"""A training job that is fed by a run while it runs: killed and started again, it has seen every event once."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest

from projections import open_history
from tests.e2e.conftest import SLOW

BODIES = ("decision_made", "epoch_completed", "field_report")
EPOCHS = 60


def start_job(esper, forks, *arguments):
    """The example job on the run's folder."""
    where = ("--data-dir", str(esper.data_dir), "--json", *arguments)
    return forks.start("feed_job:run", *where, log=esper.data_dir.parent / "job.log")


def archived(esper):
    """How many events of each type there are, and the sum of their ids, by the archive."""
    counts, checksum = {}, 0
    with open_history(esper.data_dir / "archive") as history:
        for body in BODIES:
            rows = history.execute(f"select distinct event_id from log.{body}").fetchall()
            counts[body] = len(rows)
            checksum += sum(int.from_bytes(event_id) for (event_id,) in rows)
    return counts, f"{checksum % 2**128:032x}"


@pytest.mark.timeout(600)
def test_a_job_that_follows_a_run_and_is_killed_sees_every_event_once(esper, forks, go_on):
    checkpoint = esper.data_dir / "projections" / "outcome.pt"
    job = start_job(esper, forks)  # before there is a log
    run = esper.start("run", "--task", SLOW, "--no-control", "--policy", "random", "--epochs", str(EPOCHS), "--json")
    esper.wait_until(checkpoint.exists, 90.0)
    assert run.poll() is None, "the run ended before the job had seen any of it"
    time.sleep(random.uniform(0.0, 0.5))
    job.kill()
    job = start_job(esper, forks)
    go_on.touch()
    result = json.loads(run.communicate(timeout=250)[0].splitlines()[-1])
    os.kill(job.pid, signal.SIGTERM)
    code, _ = job.wait()
    assert code == 0, job.log.read_text()

    code, lines = start_job(esper, forks, "--once").wait()

    summary = lines[-1]
    assert code == 0
    assert (summary["events"], summary["checksum"]) == archived(esper)
    assert summary["events"]["epoch_completed"] == result["epochs"] == EPOCHS
    assert summary["reports"] == summary["events"]["field_report"] > 0
    assert 0.0 <= summary["accuracy"] <= 1.0


def test_a_checkpoint_that_is_none_is_named(esper, forks, tmp_path):
    broken = tmp_path / "broken.pt"
    broken.write_text("no checkpoint")

    job = start_job(esper, forks, "--once", "--checkpoint", str(broken))

    assert job.wait() == (1, [])
    said = job.log.read_text()
    assert said.startswith(f"outcome: the job's checkpoint {broken} is unreadable")
    assert said.count("\n") == 1
