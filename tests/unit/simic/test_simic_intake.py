"""Experience out of a real archive: what Esper's small history teaches, and what of it is refused."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from contracts.leyline.v1.event_pb2 import EpochCompleted
from esper.leyline.objects import ObjectStore
from esper.simic import intake
from esper.simic.gates import Evidence, Paired
from esper.simic.intake import take_rows
from esper.simic.learner import Learner, LearnerSettings
from esper.simic.replay_buffer import BufferSettings, ReplayBuffer
from esper.simic.trainer import TrainingSettings
from esper.simic.versions import Versions
from esper.testing import KEYS, FakeClock
from projections.history import History
from projections.registry import PROJECTIONS, follow
from projections.store import Store


@pytest.fixture(scope="module")
def decisions() -> list[dict]:
    """The rows of the view `experience` over the small history that Esper carries, by run and in order."""
    archive = Path(str(resources.files("projections").joinpath("small_history", "archive")))
    with History(archive) as history, Store(PROJECTIONS["experience"], None, None) as store:
        follow(store, history, lambda _done, _of: None)
        cursor = store.cursor().execute("SELECT * FROM experience ORDER BY run_id, sequence")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@pytest.fixture
def objects(tmp_path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


@pytest.fixture(scope="module")
def run(decisions) -> list[dict]:
    """One run that has ended and has a control run."""
    first = next(row["run_id"] for row in decisions if row["control_flops"])
    return [row for row in decisions if row["run_id"] == first]


@pytest.mark.requirement("R-SIM-1", "R-SIM-2")
def test_a_runs_decisions_become_experience_once(decisions, run, objects):
    taken = take_rows(decisions, objects, price=0.03)
    buffer = ReplayBuffer(BufferSettings(minimum=1))
    stored = [buffer.store(each) for each in (*taken.experiences, *taken.experiences)]

    mine = [each for each in taken.experiences if each.provenance.run_id == run[0]["run_id"]]
    assert [each.provenance.epoch for each in mine] == [row["epoch"] for row in run]
    assert [each.ended for each in mine] == [False] * (len(run) - 1) + [True]
    last = run[-1]
    assert mine[-1].reward == -(last["probe_loss"] + 0.03 * last["flops"] / last["control_flops"])
    assert all(each.reward == 0.0 for each in mine[:-1])
    assert sum(stored) == len(taken.experiences) == len(buffer)
    assert set(taken.refused) <= {"no control", "no such actions"}
    assert len(taken.experiences) + taken.refused.total() == len(decisions)
    grown = next(each for each in taken.experiences if each.provenance.command_id is not None)
    assert grown.provenance.seed_id
    assert grown.provenance.policy == "heuristic"


def test_a_learner_takes_what_is_new_and_learns_from_it(decisions, run, objects):
    """Two looks at a history that went on in between; then a training on what runs came to."""
    clock = FakeClock().clock
    settings = LearnerSettings(
        price=0.0,  # without one a run needs no control
        training=TrainingSettings(method="ppo", epochs=1, steps_per_epoch=2, batch=8),
        buffer=BufferSettings(minimum=8),
    )
    learner = Learner(objects, KEYS, settings, monotonic=clock.monotonic, now_ns=clock.wall_ns)

    first = learner.take(run, Versions())
    there = len(learner.buffer)
    both = learner.take(decisions, Versions())

    assert there == len(first.experiences) < len(both.experiences) == len(learner.buffer)
    assert learner.buffer.repeated == there
    pairs = Paired("utility", [-0.9] * 8, [-1.0] * 8, higher_is_better=True)
    evidence = Evidence(pairs, [], {}, both.experiences[:13], [bytes(decisions[0]["observation"])])
    learnt = learner.learn(Versions(), lambda *_: evidence)
    assert learnt.verdict.passed, learnt.verdict.reason
    assert learnt.trained.figures["simic.training.iterations"] == 2.0
    assert learnt.events[0].policy_trained.experiences == len(learner.buffer)


@pytest.mark.requirement("R-SIM-1")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"observation_hash": bytes(32)}, "observation changed"),
        ({"observation": b"", "observation_ref": "sha256:" + "0" * 64}, "observation missing"),
        ({"observation": b"\xff\xff"}, "observation missing"),
        ({"actions": ["nothing", "cull s9"]}, "no such actions"),
        ({"action": 10_000}, "illegal action"),
        ({"action_mask": b"\x01"}, "no such actions"),
    ],
)
def test_what_is_broken_is_refused_and_counted(run, objects, change, reason):
    taken = take_rows([{**run[0], **change}, *run[1:]], objects, price=0.03)

    assert taken.refused == {reason: 1}
    assert len(taken.experiences) == len(run) - 1


@pytest.mark.requirement("R-SIM-1")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"run_status": None}, "running"),
        ({"control_flops": None}, "no control"),
        ({"probe_loss": float("nan")}, "reward out of range"),
        ({"probe_loss": 1e9}, "reward out of range"),
    ],
)
def test_a_run_whose_worth_is_unknown_teaches_nothing(run, objects, change, reason):
    taken = take_rows([*run[:-1], {**run[-1], **change}], objects, price=0.03)

    assert taken.experiences == []
    assert taken.refused == {reason: len(run)}


def test_a_broken_graph_is_refused(run, objects, monkeypatch):
    built = intake.graph.build

    def bent(state: EpochCompleted, actions, sizes):
        graph = built(state, actions, sizes)
        graph.x["global"][0, 0] = float("inf")
        return graph

    monkeypatch.setattr(intake.graph, "build", bent)

    assert take_rows(run, objects, price=0.0).refused == {"broken graph": len(run)}


_PRINT = """
import hashlib, json, sys
from contracts.leyline.v1.event_pb2 import EpochCompleted
from esper.tamiyo import graph
from esper.tamiyo.actions import legal_actions
state = EpochCompleted.FromString(bytes.fromhex(sys.stdin.read()))
data = graph.build(state, legal_actions(state)[0])
digest = hashlib.sha256()
for name in sorted(data.x):
    digest.update(data.x[name].tobytes() + data.registry[name].tobytes())
for relation in sorted(data.edges):
    digest.update(data.edges[relation].index.tobytes() + data.edges[relation].attributes.tobytes())
print(digest.hexdigest())
"""


@pytest.mark.requirement("R-SIM-16")
def test_features_are_the_same_in_other_processes_and_orders_of_maps(run):
    """Another salt of Python's hash, and the metrics of the packet put in in another order."""
    state = EpochCompleted.FromString(run[-1]["observation"])
    metrics = dict(state.state.training_metrics)
    other = EpochCompleted.FromString(run[-1]["observation"])
    other.state.training_metrics.clear()
    for name in sorted(metrics, reverse=True):
        other.state.training_metrics[name] = metrics[name]

    said = {
        subprocess.run(
            [sys.executable, "-c", _PRINT],
            input=each.SerializeToString().hex(),
            env={"PYTHONHASHSEED": salt, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for each, salt in ((state, "1"), (other, "2"))
    }

    assert len(said) == 1
    assert len(said.pop().strip()) == 64
