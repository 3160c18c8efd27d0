"""The worker keeps its projections up with the live log, and gives their files back when it ends."""

from __future__ import annotations

import time

import pytest

from contracts.leyline.v1 import event_pb2, leyline_pb2
from esper.leyline import ids
from projections.rebuild import seen
from projections.registry import PROJECTIONS, file_of
from projections.store import Store

LAG = "esper_projection_lag_records{"
OF_THE_WORKER = [name for name, projection in PROJECTIONS.items() if projection.owner == "worker"]


@pytest.fixture
def lived(writer, events):
    """A run that began and had a report, and a policy, on the log."""
    policy_id = f"policy-{events.run_id}"
    for body in (
        event_pb2.RunStarted(task="spirals", policy="random", epochs=3, params_host=10),
        leyline_pb2.FieldReport(
            version=1, report_id="r", command_id=ids.text(bytes(16)), seed_id="s1", blueprint_id="BP1"
        ),
        event_pb2.PolicyTrained(policy_id=policy_id, policy_version="1"),
    ):
        writer.publish(events.make(body))
    writer.flush()
    return events.run_id, policy_id


def eventually(question, timeout_s=30.0):
    """Whether an answer comes in time that is not empty."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.1)
    return question()


def test_what_is_said_on_the_log_is_in_its_projections(log, data_dir, start_process, scrape, lived, ring):
    run_id, policy_id = lived
    worker = start_process("worker", data_dir, log.address)
    told = eventually(lambda: [line for line in scrape.text(worker).splitlines() if line.startswith(LAG)])
    kept = {name: seen(PROJECTIONS[name], data_dir).state for name in OF_THE_WORKER}
    worker.terminate()

    assert {line.split('"')[1] for line in told} == set(OF_THE_WORKER)
    assert set(kept.values()) == {"kept"}
    with Store(PROJECTIONS["runs"], file_of(data_dir, PROJECTIONS["runs"]), ring) as store:
        query = "SELECT status, epochs_planned FROM runs WHERE run_id = ?"
        assert store.cursor().execute(query, [run_id]).fetchall() == [("running", 3)]
    with Store(PROJECTIONS["reports"], file_of(data_dir, PROJECTIONS["reports"]), ring) as store:
        assert len(store.cursor().execute("SELECT 1 FROM reports WHERE run_id = ?", [run_id]).fetchall()) == 1
    with Store(PROJECTIONS["policies"], file_of(data_dir, PROJECTIONS["policies"]), ring) as store:
        query = "SELECT state FROM policies WHERE policy_id = ?"
        assert store.cursor().execute(query, [policy_id]).fetchall() == [("trained",)]
