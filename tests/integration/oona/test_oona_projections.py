"""The worker keeps its projections up with the live log, and gives their files back when it ends."""

from __future__ import annotations

import time

import pytest

from contracts.leyline.v1 import event_pb2
from projections.registry import PROJECTIONS, file_of, seen
from projections.store import Store

LAG = "esper_projection_lag_records{"
OF_THE_WORKER = [name for name, projection in PROJECTIONS.items() if projection.owner == "worker"]


@pytest.fixture
def lived(writer, events):
    """A run that began and attached a kernel, on the log."""
    for body in (
        event_pb2.RunStarted(task="spirals", policy="random", epochs=3, params_host=10),
        event_pb2.KernelAttached(seed_id="s1", blueprint_id="BP1", artifact_ref="sha256:1"),
    ):
        writer.publish(events.make(body))
    writer.flush()
    return events.run_id


def eventually(question, timeout_s=30.0):
    """Whether an answer comes in time that is not empty."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.1)
    return question()


def test_what_is_said_on_the_log_is_in_its_projections(log, data_dir, start_process, scrape, lived, ring):
    worker = start_process("worker", data_dir, log.address)
    told = eventually(lambda: [line for line in scrape.text(worker).splitlines() if line.startswith(LAG)])
    kept = {name: seen(PROJECTIONS[name], data_dir).state for name in OF_THE_WORKER}
    worker.terminate()

    assert {line.split('"')[1] for line in told} == set(OF_THE_WORKER)
    assert set(kept.values()) == {"kept"}
    with Store(PROJECTIONS["urza"], file_of(data_dir, PROJECTIONS["urza"]), ring) as store:
        query = "SELECT run_id FROM attached WHERE run_id = ?"
        assert store.cursor().execute(query, [lived]).fetchall() == [(lived,)]
